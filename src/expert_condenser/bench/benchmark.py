"""One benchmark: arms in turns on one workload, beside the machine's own rate; the result as JSON."""

import statistics
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from expert_condenser.bench.arms import Arm, arms_of
from expert_condenser.bench.measure import Measurement, available_memory, compare
from expert_condenser.bench.roofline import dense_products, grouped_products
from expert_condenser.bench.workloads import WORKLOADS, Setting, TrainWork
from expert_condenser.errors import BenchmarkError

ROOFLINES = {"roofline:dense": dense_products, "roofline:grouped": grouped_products}


def benchmark(
    workload: str,
    names: list[str],
    setting: Setting,
    *,
    rounds: int,
    seconds: float,
    advance: Callable[[int], None] = lambda rounds: None,
) -> dict[str, Any]:
    """The report of one run: per arm the figures, its ratio to the first arm, and its share of the roofline.

    `flops_per_s` counts what the sparse model needs (model FLOPs) for every arm alike: those of a layer's experts, or 6
    (training) or 2 (generation) per token and active parameter. `peak_mb` is memory above the weights that arms have
    in common (`weights_mb`).
    `advance` is called with 1 after every round. Raises `BenchmarkError` where no arm fits into memory.
    """
    arms = arms_of(names)
    skipped = {name: reason for name, arm in arms.items() if (reason := too_large(arm, setting)) is not None}
    arms = {name: arm for name, arm in arms.items() if name not in skipped}
    if not arms:
        raise BenchmarkError(f"no arm fits into memory: {skipped}")
    model = setting.shape.model(setting.device, setting.dtype)
    work: Any = WORKLOADS[workload]
    steps: dict[str, Any] = {name: work(arm, model, setting) for name, arm in arms.items()}
    rooflines = {name: make(setting.shape, setting.device, setting.dtype) for name, make in ROOFLINES.items()}
    bounds: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "warm": work.warm}
    results = compare({**steps, **rooflines}, device=setting.device, advance=advance, **bounds)
    report = {
        "workload": workload,
        **describe(setting),
        "rounds": len(next(iter(results.values())).seconds),
        "arms": {name: _figures(step, results[name], results, setting) for name, step in steps.items()},
        "weights_mb": sum(p.numel() * p.itemsize for p in model.parameters()) / 2**20,
        "skipped": skipped,
        "versions": {name: version(name) for name in ("torch", "transformers", "expert-condenser")},
    }
    flops = setting.shape.expert_flops()
    report["roofline_flops_per_s"] = flops / results["roofline:dense"].median
    report["roofline_grouped_flops_per_s"] = flops / results["roofline:grouped"].median
    for name, step in steps.items():
        if report["arms"][name]["peak_mb"] is not None:
            report["arms"][name]["peak_mb"] += own_weights(step.model, model)
        if isinstance(step, TrainWork):
            timed = step.callback_seconds[-report["rounds"] :]
            report["arms"][name]["callback_share"] = statistics.median(timed) / results[name].median
    return report


def own_weights(model: Any, base: Any) -> float:
    """MB of the parameters that an arm does not share with the model: ESFT's slices."""
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    return sum(p.numel() * p.itemsize for p in model.parameters() if p.data_ptr() not in shared) / 2**20


def describe(setting: Setting) -> dict[str, Any]:
    """Shape, dtype, device and threads, for the report."""
    shape = setting.shape
    sizes = {
        "T": shape.tokens, "E": shape.experts, "K": shape.top_k, "D": shape.hidden, "I": shape.intermediate,
        "L": shape.layers, "family": shape.family,
    }  # fmt: skip
    return {
        "shape": sizes,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "device": setting.device,
        "threads": torch.get_num_threads(),
        "experts_implementation": setting.experts,
    }


def _figures(step: Any, own: Measurement, results: dict[str, Measurement], setting: Setting) -> dict[str, Any]:
    work = step.flops / setting.shape.expert_flops()  # in units of the rooflines' FLOPs
    return {
        "median_s": own.median,
        "iqr_s": own.spread,
        "seconds": [round(second, 6) for second in own.seconds],
        "tokens_per_s": step.tokens / own.median,
        "flops_per_s": step.flops / own.median,
        "peak_mb": own.peak_mb,
        "ratio": own.ratio_to(next(iter(results.values()))),
        "roofline_share": work / own.ratio_to(results["roofline:dense"]),
        "grouped_roofline_share": work / own.ratio_to(results["roofline:grouped"]),
    }


def too_large(arm: Arm, setting: Setting) -> str | None:
    """Why an arm is left out: `batched_mm` copies an expert's weights for every token that chose it."""
    shape = setting.shape
    if (arm.experts or setting.experts) != "batched_mm" or setting.device != "cpu":
        return None
    weights = 3 * shape.hidden * shape.intermediate * setting.dtype.itemsize
    needed = 3 * shape.tokens * arm.slots(shape) * weights / 2**20
    if needed < available_memory():
        return None
    return f"batched_mm copies weights for every pair: about {needed / 1024:.0f} GB here"
