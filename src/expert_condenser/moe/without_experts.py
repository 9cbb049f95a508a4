"""A model without some of its experts, for a while: no token chooses them, and what is loaded stays as it is.

Where a family does not divide by the sum of the chosen, the two ways differ (docs/analysis.md):

    rescale=False   the others weigh what they weighed: only the choice changes
    rescale=True    scores are those of the experts that are left, as in a model from which the others were cut
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach, detach
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.layers import MoELayer, moe_layers
from expert_condenser.moe.rule import Rule

OUT = -torch.inf
"""A selection bias below everything, which lifts no group either: a large finite one would pull down a sum of two."""


@contextmanager
def without_experts(model: Any, removed: Mapping[int, Sequence[int]], *, rescale: bool) -> Iterator[None]:
    """Within it no token chooses the experts `{layer index: ids}`; a condenser among them is none meanwhile.

    Raises `RoutingError` on an unknown layer or id, and where fewer experts are left than a token chooses.
    """
    layers = moe_layers(model)
    check_removable(layers, removed)
    with under_policy(model), _removed(moe_layers(model), removed, rescale):
        yield


@contextmanager
def under_policy(model: Any) -> Iterator[None]:
    """A stock model routes by a policy that changes nothing, for a while; an attached one is left alone."""
    stock = find_attachment(model) is None
    if stock:
        attach(model, RoutingConfig(preset="paper"))
    try:
        yield
    finally:
        if stock:
            detach(model)


@contextmanager
def _removed(layers: Sequence[MoELayer], removed: Mapping[int, Sequence[int]], rescale: bool) -> Iterator[None]:
    kept = []
    for index, ids in removed.items():
        router = layers[index].router
        if router.policy is None:
            raise RoutingError("experts are taken out by a routing policy; this model is attached to be counted only")
        if router.policy.budget == "recycle" and set(ids) & set(router.condenser_ids.tolist()):
            raise RoutingError("under budget 'recycle' a condenser has gates of its own and cannot be taken out")
        kept.append((router, router.selection_bias, router.condenser_ids, router.rule))
        gone = torch.tensor(list(ids), dtype=torch.int64, device=router.condenser_ids.device)
        router.selection_bias = router.selection_bias.index_fill(0, gone.to(router.selection_bias.device), OUT)
        router.condenser_ids = router.condenser_ids[~torch.isin(router.condenser_ids, gone)]
        if rescale:
            router.rule = _without_scores(router.rule, gone)
    try:
        yield
    finally:
        for router, bias, condensers, rule in kept:
            router.selection_bias, router.condenser_ids, router.rule = bias, condensers, rule


def _without_scores(rule: Rule, gone: Tensor) -> Rule:
    """The family's rule, with logits so low that the softmax of these experts is 0."""

    def logits(router: Any, hidden: Tensor) -> Tensor:
        own = rule.logits(router, hidden)
        # Finite, so that no family's formula makes a NaN of it.
        return own.index_fill(-1, gone.to(own.device), torch.finfo(own.dtype).min / 4)

    return replace(rule, logits=logits)


def check_removable(layers: Sequence[MoELayer], removed: Mapping[int, Sequence[int]]) -> None:
    """Raise `RoutingError` on a layer or an expert that is not there, and where too few would be left."""
    for index, ids in removed.items():
        if not 0 <= index < len(layers):
            raise RoutingError(f"the model has MoE layers 0 to {len(layers) - 1}; got layer {index}; correct it")
        layer = layers[index]
        if len(set(ids)) != len(ids) or any(not 0 <= i < layer.num_experts for i in ids):
            raise RoutingError(
                f"layer {index} ({layer.name}) has the experts 0 to {layer.num_experts - 1}; got {list(ids)[:8]} to "
                "take out; name each of them once"
            )
        left, least = layer.num_experts - len(ids), least_left(layer)
        if left < least:
            raise RoutingError(
                f"layer {index} ({layer.name}): a token chooses {layer.top_k} experts, so {least} have to be left; got "
                f"{left}. Take out fewer"
            )


def least_left(layer: MoELayer) -> int:
    """The smallest number of experts that a layer can do with: K, also if all that are gone lie in the groups kept."""
    eligible = layer.num_experts // layer.scoring.num_groups * layer.scoring.groups_kept
    return layer.num_experts - eligible + layer.top_k
