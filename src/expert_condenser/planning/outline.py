"""A plan in one line, for the machine at hand and the engine that a run is started on."""

import os
from dataclasses import dataclass

import torch

from expert_condenser.errors import PlanError
from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.planning.units import shown
from expert_condenser.training.engines.deepspeed import loading_whole
from expert_condenser.training.engines.support import engine_of
from expert_condenser.training.recipe import Recipe


@dataclass(frozen=True)
class Outline:
    """The plan's line."""

    text: str
    engine: str
    total_bytes_per_device: int
    memory_per_device: int
    fits: bool
    warnings: tuple[str, ...]


def outline(recipe: Recipe) -> Outline:
    """Plan a recipe on this machine; raises `PlanError` where the model cannot be traced, or its engine planned."""
    name = engine_of(recipe.trainer)
    if name not in ENGINES:
        raise PlanError(f"a plan is of one of {', '.join(ENGINES)}; this run is on {name}")
    machine = Machine(
        devices=int(recipe.trainer.world_size), memory=memory_of(recipe.device), device=recipe.device.type
    )
    planner = Planner(recipe, machine)
    with loading_whole(recipe.trainer):  # what is traced has no bytes that DeepSpeed could split
        outlook = planner.outlook(ENGINES[name])
    kept = outlook.kept
    parts = ", ".join(f"{item} {shown(count)}" for item, count in kept.device.items() if count)
    text = f"{shown(kept.total)} of {shown(machine.memory)} per device on {name}: {parts}"
    warnings = planner.warnings()
    if not outlook.fits:
        warnings.insert(0, f"this will not fit: {text}. condenser plan says what to change first")
    return Outline(text, name, kept.total, machine.memory, outlook.fits, tuple(warnings))


def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory; of the CPU, all of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
