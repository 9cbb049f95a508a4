"""The heat maps of a page: the usage and bias of every expert at every logged interval, or as many as a page holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expert_condenser.report.page.arrays import packed_counts, packed_reals
from expert_condenser.report.page.runs import RunFiles

SNAPSHOTS = 200
"""Moments of a run at most."""
VALUES = 1_200_000
"""Numbers of all runs together: about 3 MB of a page, 4 bytes for a count and a bias in base64."""


def expert_data(runs: Sequence[RunFiles], values: int = VALUES) -> list[dict[str, Any]]:
    """What `assets/experts.js` shows, an entry for every run that recorded usage."""
    shown = [run for run in runs if run.log is not None and run.log.counts is not None]
    return [_of_run(run, values // len(shown)) for run in shown]


def _of_run(run: RunFiles, values: int) -> dict[str, Any]:
    log = run.log
    assert log is not None
    assert log.counts is not None
    per_moment = log.counts[0].numel() * (1 if log.bias is None else 2)
    steps, counts, bias = thinned(log.usage_steps, log.counts, log.bias, min(SNAPSHOTS, max(1, values // per_moment)))
    return {
        "name": run.label,
        "steps": steps,
        "phases": [{"name": name, "start": start} for name, start in log.phases.items()],
        "layers": depths(run, counts.shape[1]),
        "intervals": len(log.usage_steps),
        "counts": packed_counts(counts.numpy()),
        "bias": None if bias is None else packed_reals(bias.numpy().astype(np.float64)),
        "condensers": [run.condensers.get(layer, []) for layer in range(counts.shape[1])],
        # The method chooses them when its last phase begins.
        "condensersFrom": max(log.phases.values(), default=0),
    }


def depths(run: RunFiles, layers: int) -> list[int]:
    """The depth of the MoE layers in the decoder where the run recorded it, or else their numbers."""
    for tensors in run.routing.values():
        if len(tensors["layers"]) == layers:
            return tensors["layers"].tolist()
    return list(range(layers))


def thinned(
    steps: Sequence[int], counts: Int[Tensor, "N L E"], bias: Float[Tensor, "N L E"] | None, most: int
) -> tuple[list[int], Int[Tensor, "M L E"], Float[Tensor, "M L E"] | None]:
    """At most `most` intervals, each the sum of as many neighbours, with the bias at its end."""
    if len(steps) <= most:
        return list(steps), counts, bias
    ends = [(len(steps) * (part + 1)) // most - 1 for part in range(most)]
    before = torch.cat([torch.zeros_like(counts[:1]), counts.cumsum(0)])
    places = torch.tensor([0, *(end + 1 for end in ends)])
    return [steps[end] for end in ends], before[places].diff(dim=0), None if bias is None else bias[ends]
