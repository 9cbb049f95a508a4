"""Whether the disk has room for what a run writes, before its first step rather than at its last."""

from pathlib import Path
from typing import Any

import torch

from expert_condenser.checkpoint.guard import is_closed
from expert_condenser.errors import TrainingError
from expert_condenser.files import free_bytes
from expert_condenser.moe.split import numel
from expert_condenser.training.recipe import Recipe

_MOMENTS = 2
"""Tensors that AdamW keeps for every parameter that trains, in its dtype."""


def check_space(recipe: Recipe, model: Any) -> None:
    """Raise `TrainingError` where the result, with one checkpoint before it, does not fit on the disk.

    More may be needed: of more checkpoints, other optimizers and a second phase's nothing is counted. An overwritten
    run counts as kept, since it is deleted after the first step.
    """
    sizes = {"the result": sum(map(_bytes, model.parameters()))}
    if recipe.trainer.save_strategy != "no":
        trained = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
        saved = trained if recipe.adapter.lora is not None else sizes["the result"]
        sizes["a checkpoint"] = saved + _MOMENTS * trained
    folder, needed = Path(recipe.trainer.output_dir), sum(sizes.values())
    free = free_bytes(folder)
    if needed > free:
        items = " and ".join(f"{size:,} for {name}" for name, size in sizes.items())
        raise TrainingError(
            f"the disk of {folder} must have room for what the run writes, {needed:,} bytes at least ({items}), but "
            f"{free:,} are free: make room, or name an output_dir on another disk"
        )


def missing_for(phase: Path, trainer: Any) -> int:
    """Bytes that the disk lacked when a checkpoint of a phase, or its `final`, could not be written whole."""
    begun = [path for path in phase.glob("*") if path.is_dir() and not is_closed(path)]
    newest = max(begun, key=lambda path: path.stat().st_mtime, default=phase)
    needed = sum(map(_bytes, trainer.model.parameters()))
    if newest.name != "final" and trainer.optimizer is not None:
        states = trainer.optimizer.state.values()
        needed += sum(_bytes(value) for state in states for value in state.values() if torch.is_tensor(value))
    written = sum(path.stat().st_size for path in newest.glob("*") if path.is_file())
    return max(needed - written - free_bytes(phase), 1)


def _bytes(parameter: Any) -> int:
    return numel(parameter) * int(parameter.element_size())
