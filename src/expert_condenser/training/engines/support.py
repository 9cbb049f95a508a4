"""Which engine trains a recipe, and what each engine cannot do: said before anything is loaded."""

import os
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger

from expert_condenser.errors import TrainingError
from expert_condenser.training.engines import config_file, expert_parallel
from expert_condenser.training.recipe import Recipe

logger = get_logger(__name__)
SPLITTING = ("fsdp2", "fsdp2_offload", "zero3", "zero3_offload", "ep")
"""Engines that split the weights."""


def check_support(recipe: Recipe) -> None:
    """Raise `TrainingError` where the engine of this process cannot train the recipe."""
    engine = engine_of(recipe.trainer)
    if engine == "fsdp2_offload" and recipe.device.type == "cpu":
        raise TrainingError(
            "fsdp2_offload moves weights between an accelerator and the host's memory, and the run is on CPUs; "
            "take fsdp2"
        )
    if engine == expert_parallel.EP:
        config_file(engine)
    if (reason := refusal(recipe, engine)) is not None:
        raise TrainingError(f"{reason}. Take another engine: docs/engines.md has the table.")


def refusal(recipe: Recipe, engine: str) -> str | None:
    """Why an engine cannot train a recipe; None where it can."""
    methods = [recipe.new_method(phase) for phase in recipe.phases]
    name = recipe.run.method
    if engine in SPLITTING and any(method.whole_weights for method in methods):
        return f"{name} with these options works on whole weights, and {engine} splits them over processes"
    if engine != expert_parallel.EP:
        return None
    if recipe.adapter.lora is not None:
        return "PEFT adapts weights that are whole, and ep splits them while they are loaded"
    if any(method.whole_start for method in methods):
        return f"{name} with these options looks at whole experts before it trains, and ep never has all in one process"
    if any(method.all_experts for method in methods):
        return f"{name} runs every expert on every token, and with ep most of them are in other processes"
    return None


def check_checkpoint(checkpoint: Path, args: Any) -> None:
    """Raise `TrainingError` where the engine of this process cannot go on from a checkpoint; say what is not kept.

    Other engines write whole tensors, which any number of processes reads. DeepSpeed writes a part per process.
    """
    parts, engine = len(list(checkpoint.glob("global_step*/*_optim_states.pt"))), engine_of(args)
    zero = engine.startswith("zero")
    if (zero and parts != args.world_size) or (parts and not zero):
        written = f"by DeepSpeed in {parts} processes" if parts else "by another engine than DeepSpeed"
        raise TrainingError(
            f"the optimizer's state in {checkpoint} was written {written}, and here are {args.world_size} of {engine}, "
            "which cannot read it. Resume with the engine and the processes that the run had, or start a new run from "
            "the weights"
        )
    states = len(list(checkpoint.glob("rng_state*.pth")))
    if states != args.world_size:
        logger.warning(
            f"the run goes on in {args.world_size} processes, and had {states}: weights, bias, optimizer and the order "
            "of the rows are those that it had; random numbers, such as dropout's, are drawn anew"
        )


def engine_of(args: Any) -> str:
    """The name of the engine that shares the work, from the options of the trainer and what a launcher set."""
    plugin = args.deepspeed_plugin
    if plugin is not None:
        offloads = plugin.deepspeed_config.get("zero_optimization", {}).get("offload_param", {}).get("device", "none")
        return f"zero{plugin.zero_stage}" if offloads == "none" else f"zero{plugin.zero_stage}_offload"
    if expert_parallel.is_asked():
        return expert_parallel.EP
    if args.fsdp or _is_set("ACCELERATE_USE_FSDP"):
        return "fsdp2_offload" if _is_set("FSDP_OFFLOAD_PARAMS") else "fsdp2"
    return "ddp" if args.world_size > 1 else "one_process"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
