"""Whether the disk has room for what a run writes, before its first step rather than at its last."""

from pathlib import Path
from typing import Any

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


def _bytes(parameter: Any) -> int:
    return numel(parameter) * int(parameter.element_size())
