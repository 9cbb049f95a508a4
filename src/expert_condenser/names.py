"""One name per thing, in flags and YAML: old names, those of other tools, and the nearest right one to a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches

ALIASES = {
    "model_name_or_path": "model",
    "dataset": "data",
    "dataset_name": "data",
    "dataset_split": "split",
    "eval_dataset": "eval_data",
}
HINTS = {
    "use_peft": "set lora: attention, experts or attention+experts",
    "lora_target_modules": "set lora: attention, experts or attention+experts",
    "resume_from_checkpoint": "write resume: true (--resume), which goes on from the newest whole checkpoint",
}


def canonical(flag: str) -> str:
    """`--learning-rate` -> `learning_rate`; an alias becomes the name that it stands for."""
    name = flag.lstrip("-").replace("-", "_")
    return ALIASES.get(name, name)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one; None where none does."""
    return next(iter(get_close_matches(word, list(known), n=1)), None)
