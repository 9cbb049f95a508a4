"""Dynamic skipping (arXiv 2402.14800): a token leaves out experts whose gate weight is small beside its largest.

    skip slot k of a token where w_k < β max_j w_j

β is a quantile of w_k / max_j w_j over all slots but each token's largest; the source takes the median, at K = 2. With
`rescale` the weights that are left sum to what all did (*ours*: the source has no family that does not renormalise).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expert_condenser.analysis.calls import calls_on
from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.moe.experts_calls import check_calls
from expert_condenser.moe.layers import moe_layers


@dataclass(frozen=True)
class Skipped:
    """One model that was asked while it skipped experts."""

    quantile: float
    rescale: bool
    experts_per_token: float
    quality: Quality


def skip_curves(
    model: Any,
    rows: Sequence[Tokens],
    quantiles: Sequence[float],
    *,
    ways: Sequence[bool] = (False, True),
    tokens: int = 1024,
    batch_size: int = 64,
) -> list[Skipped]:
    """Ask the model the same rows at every β; the thresholds are those of each layer on the first `tokens` tokens."""
    calls = calls_on(model, rows, tokens)
    ratios = [(call.weights / call.weights.amax(1, keepdim=True)).sort(1).values[:, :-1] for call in calls]
    found = []
    for quantile in quantiles:
        thresholds = [torch.quantile(ratio.float().flatten(), quantile).item() for ratio in ratios]
        used = sum(
            float((call.weights >= beta * call.weights.amax(1, keepdim=True)).sum(1).double().mean())
            for call, beta in zip(calls, thresholds, strict=True)
        )
        for rescale in ways:
            with skipping(model, thresholds, rescale=rescale):
                quality = quality_of(model, rows, batch_size=batch_size)
            found.append(Skipped(quantile, rescale, used / len(calls), quality))
    return found


@contextmanager
def skipping(model: Any, thresholds: Sequence[float], *, rescale: bool) -> Iterator[None]:
    """Within it, slots below `threshold x the largest` of their token weigh nothing; a threshold per MoE layer."""
    layers = moe_layers(model)
    check_calls(layers)
    handles = [
        layer.experts.register_forward_pre_hook(partial(_skip, beta, rescale))
        for layer, beta in zip(layers, thresholds, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _skip(beta: float, rescale: bool, experts: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    hidden, indices, weights = args
    kept = weights.masked_fill(weights < beta * weights.amax(dim=-1, keepdim=True), 0.0)
    if rescale:
        kept = kept * (weights.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True))
    return hidden, indices, kept
