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
"""Names of earlier releases, and of TRL, for the same thing."""
HINTS = {
    "use_peft": "set lora to attention, experts or attention+experts",
    "lora_target_modules": "set lora to attention, experts or attention+experts",
    "load_in_4bit": "a base is trained in the dtype that `dtype` names; quantised fused experts cannot be adapted",
    "load_in_8bit": "a base is trained in the dtype that `dtype` names; quantised fused experts cannot be adapted",
    "resume_from_checkpoint": "write resume (resume: true in a recipe), which takes the newest whole checkpoint",
}
"""Names that mean something else in other tools, and what to write here."""


def canonical(flag: str) -> str:
    """`--learning-rate` -> `learning_rate`; an alias becomes the name that it stands for."""
    name = flag.lstrip("-").replace("-", "_")
    return ALIASES.get(name, name)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one; None where none does."""
    return next(iter(get_close_matches(word, list(known), n=1)), None)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist: the nearest one, or all where they are few."""
    names = list(known)
    if near := nearest(name, names):
        return f"{name!r} is no {what}; did you mean {near!r}?"
    return f"{name!r} is no {what}" + (f"; there are {', '.join(names)}" if len(names) < 30 else "")
