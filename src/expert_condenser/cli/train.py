"""`condenser train --config recipe.yaml [--name value ...]`: fine-tune a model."""

import logging
import shutil
from dataclasses import MISSING, Field, fields
from typing import Any

from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.errors import ExpertCondenserError

logger = logging.getLogger(__name__)
_RENDEZVOUS = 1800
"""Seconds that processes wait for each other at the start; torch's own number."""


def run(words: list[str]) -> None:
    """Run a recipe; what can be checked is checked before anything is written."""
    if "--help" in words or "-h" in words or "--help_all" in words or "--help-all" in words:
        print(help_text(_method(words), everything="--help-all" in words or "--help_all" in words))
        return
    from expert_condenser.cli.progress import TrainingProgress
    from expert_condenser.kernels.buffers import keep_freed_memory
    from expert_condenser.training.launch import end_with_launcher, launch_of, start
    from expert_condenser.training.lost_process import lost_process_named
    from expert_condenser.training.main_process import end_together
    from expert_condenser.training.parse import parse_recipe, written_options
    from expert_condenser.training.run import train

    launch = launch_of(words, written_options(words))
    if launch is not None:
        start(launch, "train")
        return
    end_with_launcher()
    quiet_libraries()
    with lost_process_named(_RENDEZVOUS):  # options of the Trainer are read by all processes together
        recipe = parse_recipe(words)
    if recipe.trainer.process_index == 0:
        _say_plan(recipe)
    if recipe.device.type == "cpu":
        keep_freed_memory()  # of this process alone, which trains and ends: 5 % of the testbed's step
    shown = [] if recipe.trainer.disable_tqdm else [TrainingProgress()]
    result = train(recipe, callbacks=shown)
    if recipe.trainer.process_index == 0:
        say_result(result)
    with lost_process_named(recipe.trainer.ddp_timeout):
        end_together(recipe.trainer)


def _say_plan(recipe: Any) -> None:
    """Log what the run needs, before anything is loaded, and warn where it will not fit."""
    from expert_condenser.planning.outline import outline

    try:
        found = outline(recipe)
    except ExpertCondenserError as error:  # a wrong recipe is refused by the run itself, in its own words
        logger.info(f"no plan: {error}")
        return
    logger.info(f"plan: {found.text}")
    for warning in found.warnings:
        logger.warning(warning)


def _method(words: list[str]) -> str:
    """The method whose options the help shows: the one that is named, or the default."""
    for position, word in enumerate(words):
        if word.startswith("--method="):
            return word.partition("=")[2]
        if word == "--method" and position + 1 < len(words):
            return words[position + 1]
    return "condenser"


def help_text(method: str, *, everything: bool = False) -> str:
    """Our options of a recipe by group, on one screen; with `everything` also all of TRL's."""
    from expert_condenser.methods import METHODS
    from expert_condenser.training.recipe import RunConfig, option_kinds
    from expert_condenser.training.sft_options import REFUSED

    RunConfig(method=method)  # an unknown method is named
    lines = ["condenser train --config recipe.yaml [--name value ...]"]
    for title, kind in option_kinds(method).items():
        shown = [f for f in fields(kind) if f.init and f.name not in REFUSED]
        variants = [] if everything else list(getattr(kind, "variants", ()))
        if shown and (everything or title != "trainer"):
            lines += [f"{title}:", *(_line(f) for f in shown if f.name not in variants)]
        if variants:
            lines += [f"  variants (docs/method.md, section 10): --{' --'.join(variants)}"]
    others = ", ".join(name for name in METHODS if name != method)
    lines += [f"of another method: --method M --help, with M of {others}"]
    if not everything:
        lines += [f"of TRL's SFTConfig: --{' --'.join(_OFTEN)} ...; all: condenser train --help-all"]
    return "\n".join(lines)


_OFTEN = (
    *("output_dir", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "max_length"),
    *("gradient_accumulation_steps", "warmup_steps", "bf16", "logging_steps", "save_steps", "report_to", "seed"),
)
"""TRL's options that most recipes set."""


def _line(option: Field[Any]) -> str:
    default = option.default if option.default_factory is MISSING else option.default_factory()
    text = " ".join(str(option.metadata.get("help", "")).split())
    head = f"  --{option.name:<27} {'' if default is None else default!s:<12} "
    room = max(shutil.get_terminal_size((120, 50)).columns - len(head), 20)
    return head + (text if len(text) <= room else text[: room - 1].rstrip() + "…")
