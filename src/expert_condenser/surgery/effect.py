"""What the removal of experts does to the routing: how many choices they had, and to which factor the others rise.

A softmax over all experts that is not renormalised gives the experts that are left `1 / (1 - m)` of what they weighed,
where m is the share of the removed in the softmax of a token (*ours*). All other families weigh as before. Where a bias
is added to the scores of a softmax over all, it stays while they rise: tokens near a tie choose otherwise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from expert_condenser.functional.scoring import Scoring, expert_scores, routed_logits
from expert_condenser.moe.experts_calls import ExpertsCall
from expert_condenser.moe.layers import MoELayer
from expert_condenser.surgery.removal import Removed


@dataclass(frozen=True)
class Effect:
    """Of one layer, over the tokens that were looked at."""

    layer: int
    choices: float
    """The share of all choices that went to the removed experts."""
    gate_mass: float
    """The share of the sum of all gate weights that they had."""
    rescaled: bool
    """Whether the weights of the others change with what is removed."""
    shifted: bool
    """Whether the choices among the others change with what is removed."""
    factor_median: float = 1.0
    """Of the tokens; a few had nearly all of their softmax on the removed, and are far above it."""
    factor_largest: float = 1.0

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def is_rescaled(scoring: Scoring) -> bool:
    """Whether a family's weights depend on experts that are not chosen: a softmax over all, not renormalised."""
    return scoring.function == "softmax" and not scoring.normalize


def is_shifted(layer: MoELayer) -> bool:
    """Whether a token's choice among some experts depends on others: a bias beside the scores of a softmax over all."""
    policy = getattr(layer.router, "policy", None)
    biased = layer.rule.correction is not None or (policy is not None and policy.bias_space == "score")
    return biased and layer.scoring.function == "softmax" and not layer.scoring.chooses_by_logits


@torch.no_grad()
def effects_of(layers: Sequence[MoELayer], calls: Sequence[ExpertsCall], removed: Removed) -> list[Effect]:
    """The effect in every layer, from the calls of its experts by the model that has all of them."""
    return [_effect(at, layer, call, removed[at]) for at, (layer, call) in enumerate(zip(layers, calls, strict=True))]


def _effect(at: int, layer: MoELayer, call: ExpertsCall, removed: Sequence[int]) -> Effect:
    gone = torch.isin(call.indices, torch.tensor(list(removed), device=call.indices.device))
    weights = call.weights.double()
    choices = gone.double().mean().item()
    mass = (weights.masked_fill(~gone, 0).sum() / weights.sum()).item()
    if not is_rescaled(layer.scoring):
        return Effect(at, choices, mass, rescaled=False, shifted=is_shifted(layer))
    factor = 1 / (1 - _share(layer, call, removed)).clamp(min=1e-9)  # the removed may have all that float32 shows
    return Effect(at, choices, mass, True, is_shifted(layer), factor.median().item(), factor.max().item())


def _share(layer: MoELayer, call: ExpertsCall, removed: Sequence[int]) -> Tensor:
    """m of every token, `(T,)`."""
    logits = routed_logits(layer.rule.logits(layer.router, call.hidden), layer.scoring)
    return expert_scores(logits.double(), layer.scoring)[:, list(removed)].double().sum(-1)
