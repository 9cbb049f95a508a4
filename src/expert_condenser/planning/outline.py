"""A plan in one line, for the machine at hand and the engine that a run is started on."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_deepspeed_available

from expert_condenser.files import read_json
from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.planning.units import shown
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
    """Plan a recipe on this machine; raises `PlanError` where the model cannot be traced."""
    name, devices = engine_of(recipe)
    machine = Machine(devices=devices, memory=memory_of(recipe.device), device=recipe.device.type)
    planner = Planner(recipe, machine)
    outlook = planner.outlook(ENGINES[name])
    kept = outlook.kept
    parts = ", ".join(f"{item} {shown(count)}" for item, count in kept.device.items() if count)
    text = f"{shown(kept.total)} of {shown(machine.memory)} per device on {name}: {parts}"
    warnings = planner.warnings()
    if not outlook.fits:
        warnings.insert(0, f"this will not fit: {text}. condenser plan says what to change first")
    return Outline(text, name, kept.total, machine.memory, outlook.fits, tuple(warnings))


def engine_of(recipe: Recipe) -> tuple[str, int]:
    """The engine that a run of this process is on, and on how many devices."""
    trainer = recipe.trainer
    devices = int(trainer.world_size)
    if trainer.deepspeed is not None and is_deepspeed_available():
        options: Any = trainer.deepspeed if isinstance(trainer.deepspeed, dict) else read_json(trainer.deepspeed)
        zero = options.get("zero_optimization", {})
        if zero.get("stage") == 3:
            return ("zero3_offload" if "offload_optimizer" in zero or "offload_param" in zero else "zero3"), devices
        return "zero2", devices
    # accelerate's launcher says so in the environment; the recipe may say so, too
    if trainer.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        offloads = os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
        return ("fsdp2_offload" if offloads else "fsdp2"), devices
    return ("ddp" if devices > 1 else "one_process"), devices


def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory; of the CPU, all of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
