"""What is lost without the least important experts, and without as many random ones (paper, Fig. 1, App. D).

Keep n experts per layer (`layer`), or n L of the whole model wherever they are, but in no layer fewer than a token
chooses (`global`). In families that do not divide by the sum of the chosen, taking out even experts that nobody chooses
rescales every gate weight, so both ways are there: `rescale` is a model that was cut (see `moe.without_experts`).

The control is random draws. Under `global` a draw takes as many experts out of every layer as the criterion does, so
that it differs in who, and not in where. All experts of a model have as many parameters, so the control loses as many.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.expert_scores import random_scores
from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.without_experts import least_left, under_policy, without_experts

Scope = Literal["layer", "global"]
Removed = dict[int, list[int]]
CONTROL = "random"


@dataclass(frozen=True)
class Prune:
    """One model that was asked, pruned in one way."""

    criterion: str
    scope: Scope
    rescale: bool
    kept: int
    """n, experts per layer on average."""
    draw: int | None
    """Which draw of the control."""
    control_of: str | None
    """Under `global`, the criterion whose numbers per layer a draw repeats."""
    removed: Removed
    parameters: int
    """How many parameters are gone."""
    quality: Quality

    def content(self, whole: Quality) -> dict[str, Any]:
        """As JSON; `whole` is the model with all experts, on the same items."""
        rise, interval = self.quality.rise_over(whole)
        return {
            "criterion": self.criterion,
            "scope": self.scope,
            "rescale": self.rescale,
            "kept": self.kept,
            "draw": self.draw,
            "control_of": self.control_of,
            "parameters_removed": self.parameters,
            "nll_rise": rise,
            "nll_rise_interval": [interval.low, interval.high],
            **self.quality.content(),
        }


@dataclass(frozen=True)
class Plan:
    """What is pruned in which ways."""

    keep: Sequence[int]
    scopes: Sequence[Scope] = ("layer", "global")
    ways: Sequence[bool] = (False, True)
    draws: int = 5
    seed: int = 0

    def cuts(self, scores: Mapping[str, Float64[Tensor, "L E"]], least: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """`(criterion, scope, kept, draw, control_of, removed)` of every set of experts, the controls included."""
        for kept in self.keep:
            for scope in self.scopes:
                for name, table in scores.items():
                    removed = experts_to_remove(table, kept, scope, least)
                    yield name, scope, kept, None, None, removed
                    if scope == "global":
                        for draw in range(self.draws):
                            yield CONTROL, scope, kept, draw, name, self._like(removed, table.shape, draw)
                if scope == "layer":
                    shape = next(iter(scores.values())).shape
                    for draw in range(self.draws):
                        table = random_scores((shape[0], shape[1]), self.seed + draw)
                        yield CONTROL, scope, kept, draw, None, experts_to_remove(table, kept, scope, least)

    def _like(self, removed: Removed, shape: Any, draw: int) -> Removed:
        table = random_scores((shape[0], shape[1]), self.seed + draw)
        return {layer: table[layer].argsort()[: len(ids)].tolist() for layer, ids in removed.items()}


def experts_to_remove(scores: Float64[Tensor, "L E"], kept: int, scope: Scope, least: Sequence[int]) -> Removed:
    """The experts of the lowest scores, so that `kept` per layer are left; ties go to the lower index.

    `least` is how many a layer must keep. Raises `AnalysisError` where `kept` is less than that, or more than E.
    """
    num_layers, num_experts = scores.shape
    if not max(least) <= kept <= num_experts:
        raise AnalysisError(
            f"a pruned layer keeps as many experts as a token chooses, {max(least)} to {num_experts} here; got {kept}"
        )
    if scope == "layer":
        return {at: row.argsort(stable=True)[: num_experts - kept].tolist() for at, row in enumerate(scores)}
    # Scores of layers are compared as they are, but for the ones that a layer cannot do without.
    guarded = scores.clone()
    for at, row in enumerate(scores):
        guarded[at, row.argsort(descending=True, stable=True)[: least[at]]] = torch.inf
    lowest = guarded.flatten().argsort(stable=True)[: num_layers * (num_experts - kept)].tolist()
    removed: Removed = {at: [] for at in range(num_layers)}
    for place in lowest:
        removed[place // num_experts].append(place % num_experts)
    return removed


def prune_curves(
    model: Any,
    rows: Sequence[Tokens],
    scores: Mapping[str, Float64[Tensor, "L E"]],
    plan: Plan,
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda prunes: None,
) -> tuple[Quality, list[Prune]]:
    """The whole model, and every pruned one, asked the same rows; the model is loaded once and left as it was.

    `scores` are those of `expert_scores`, the lowest pruned first. `advance` is called after every pruned model.
    """
    layers = moe_layers(model)
    if any(table.shape != (len(layers), layers[0].num_experts) for table in scores.values()):
        raise AnalysisError("a score is there for every expert of the model; these are of another model's experts")
    least = [least_left(layer) for layer in layers]
    size = parameters_per_expert(model)
    cuts = list(plan.cuts(scores, least))  # what cannot be pruned so is refused before a model is asked
    found = []
    with under_policy(model):
        whole = quality_of(model, rows, batch_size=batch_size)
        for criterion, scope, kept, draw, control_of, removed in cuts:
            gone = size * sum(map(len, removed.values()))
            for rescale in plan.ways:
                with without_experts(model, removed, rescale=rescale):
                    quality = quality_of(model, rows, batch_size=batch_size)
                found.append(Prune(criterion, scope, rescale, kept, draw, control_of, removed, gone, quality))
                advance(1)
    return whole, found


def parameters_per_expert(model: Any) -> int:
    """Parameters of one routed expert, its row of the router left out."""
    layer = moe_layers(model)[0]
    return sum(p.numel() for p in layer.experts.parameters()) // layer.num_weighted


@dataclass(frozen=True)
class AgainstControl:
    """One pruned model beside the draws that lose as many parameters in the same way."""

    prune: Prune
    nll: float
    control_mean: float
    control_low: float
    control_high: float
    """The range of the draws."""
    worse_draws: int
    """How many draws have a higher nll."""
    draws: int


def against_control(prunes: Sequence[Prune]) -> list[AgainstControl]:
    """Every pruned model whose criterion is no draw, beside its draws; those without any are left out."""
    found = []
    for prune in prunes:
        if prune.draw is not None:
            continue
        drawn = [p.quality.nll_per_token for p in prunes if _is_control(p, prune)]
        if drawn:
            nll = prune.quality.nll_per_token
            worse = sum(value > nll for value in drawn)
            found.append(AgainstControl(prune, nll, sum(drawn) / len(drawn), min(drawn), max(drawn), worse, len(drawn)))
    return found


def _is_control(draw: Prune, prune: Prune) -> bool:
    same = (draw.scope, draw.rescale, draw.kept) == (prune.scope, prune.rescale, prune.kept)
    return draw.draw is not None and same and draw.control_of in (None, prune.criterion)
