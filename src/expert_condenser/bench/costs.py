"""What a training step of each method costs beside plain fine-tuning: the figures of `condenser methods`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from expert_condenser.bench.benchmark import benchmark
from expert_condenser.bench.shapes import SHAPES
from expert_condenser.bench.workloads import Setting
from expert_condenser.errors import BenchmarkError
from expert_condenser.methods import METHODS
from expert_condenser.moe.experts import NAME

PLAIN_MIXER = "densemixer (plain)"
ARM_OF = {**{name: name for name in METHODS}, "densemixer": "densemixer_lean", PLAIN_MIXER: "densemixer"}
"""Every method as it comes, and DenseMixer's plain implementation beside the lean one."""


def measure_costs(rounds: int, advance: Callable[[int], None] = lambda rounds: None) -> dict[str, Any]:
    """Seconds of a step and peak memory, weights included, of each method, and both relative to `sft`.

    `advance` is called with 1 after every round. Raises `BenchmarkError` where the system does not tell the memory.
    """
    shape = dataclasses.replace(SHAPES["small"], layers=2, tokens=1024)
    setting = Setting(shape, "cpu", torch.float32, NAME)
    arms = list(dict.fromkeys(ARM_OF.values()))
    report = benchmark("train", arms, setting, rounds=rounds, seconds=float("inf"), advance=advance)
    figures = {name: report["arms"][arm] for name, arm in ARM_OF.items()}
    if any(arm["peak_mb"] is None for arm in figures.values()):
        raise BenchmarkError(
            "costs are time and peak memory, and this system does not tell the latter; measure on Linux"
        )
    peaks = {name: report["weights_mb"] + arm["peak_mb"] for name, arm in figures.items()}
    return {
        "measured_on": _described(report),
        "relative_to_sft": {
            name: {"time": round(arm["ratio"], 3), "memory": round(peaks[name] / peaks["sft"], 3)}
            for name, arm in figures.items()
        },
        "medians": {name: {"step_s": arm["median_s"], "peak_mb": peaks[name]} for name, arm in figures.items()},
    }


def _described(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{key} = {value}" for key, value in report["shape"].items() if key != "family")
    tools = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"random OLMoE ({sizes}), {report['dtype']}, AdamW, {report['threads']} CPU threads, {tools}, median ratios of "
        f"{report['rounds']} steps in turns"
    )
