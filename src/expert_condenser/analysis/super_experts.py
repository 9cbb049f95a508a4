"""Super experts, whose outputs are extreme (arXiv 2507.23279), and super weights, which make them so (2411.07191).

    a_i      the largest |E_i(x)_c| over tokens that chose i and dimensions c, without the gate weight
    super    a_i above the 99.5th percentile of all experts of the model, and above a tenth of the largest

The source asks also that the layer lies where massive activations form; that condition is left out here (*ours*), and
the depth is told. The super weight of an expert is the one of its last projection that adds most to its largest output:

    argmax_j |W_cj h_j|,    found by the gradient of E_i(x)_c by W, which is h_j in row c
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.calls import calls_on
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.experts_calls import ExpertsCall, expert_outputs
from expert_condenser.moe.layers import MoELayer, decoder_depth, moe_layers

PERCENTILE, SHARE = 0.995, 0.1
Place = tuple[int, int]
"""Layer index and expert id."""


@dataclass(frozen=True)
class SuperWeight:
    """One number among the weights."""

    parameter: str
    place: tuple[int, ...]
    value: float
    output: float
    """The output dimension's value where it is largest."""
    share: float
    """What this weight adds to it, as a share."""


_NOTHING: Mapping[Place, SuperWeight] = MappingProxyType({})


@dataclass(frozen=True)
class SuperExperts:
    """Of one model."""

    name: str
    layers: tuple[int, ...]
    largest: Float64[Tensor, "L E"]
    """a_i; 0 where no token chose the expert."""
    found: list[Place]
    """The super experts, the most extreme first."""
    weights: dict[Place, SuperWeight]
    """Of its super experts and of those that were followed: what makes their largest output now."""
    followed: dict[Place, float]
    """The value, in this model, of every weight that was to be followed."""


def super_experts(
    name: str,
    model: Any,
    rows: Sequence[Tokens],
    *,
    tokens: int = 2048,
    follow: Mapping[Place, SuperWeight] = _NOTHING,
) -> SuperExperts:
    """Find the super experts of a model and their super weights; a base's `weights` are followed where `follow` says.

    A followed weight is read where it was; what makes the largest output of its expert now may be another one.
    """
    layers = moe_layers(model)
    calls = calls_on(model, rows, tokens)
    largest = torch.stack([_largest(layer, call) for layer, call in zip(layers, calls, strict=True)])
    found = extreme(largest)
    for place in follow:
        if not (0 <= place[0] < len(layers) and 0 <= place[1] < layers[0].num_experts):
            raise AnalysisError(f"{name} has {len(layers)} layers of {layers[0].num_experts} experts; got {place}")
    places = list(dict.fromkeys([*follow, *found]))
    weights = {place: _weight(layers[place[0]], calls[place[0]], place[1]) for place in places}
    kept = {place: weight for place, weight in weights.items() if weight is not None}
    followed = {place: _value(layers[place[0]], weight) for place, weight in follow.items()}
    return SuperExperts(name, tuple(map(decoder_depth, layers)), largest, found, kept, followed)


def extreme(largest: Float64[Tensor, "L E"]) -> list[Place]:
    """Which experts are super by both conditions, the largest first."""
    bound = max(float(torch.quantile(largest.flatten(), PERCENTILE)), SHARE * float(largest.max()))
    places = (largest > bound).nonzero().tolist() if largest.max() > 0 else []
    return sorted(((layer, expert) for layer, expert in places), key=lambda place: -float(largest[place]))


@torch.no_grad()
def _largest(layer: MoELayer, call: ExpertsCall) -> Float64[Tensor, " E"]:
    found = torch.zeros(layer.num_experts, dtype=torch.float64)
    for hidden, indices in zip(torch.split(call.hidden, 512), torch.split(call.indices, 512), strict=True):
        sizes = expert_outputs(layer, hidden, indices).abs().amax(-1).double().cpu()
        found.scatter_reduce_(0, indices.flatten().cpu(), sizes.flatten(), "amax")
    return found


def _weight(layer: MoELayer, call: ExpertsCall, expert: int) -> SuperWeight | None:
    """None where no token chose the expert, or it has no weights."""
    rows = (call.indices == expert).any(1).nonzero()[:, 0]
    if not len(rows) or expert >= layer.num_weighted:
        return None
    hidden = call.hidden[rows]
    with torch.enable_grad():
        outputs = expert_outputs(layer, hidden, torch.full((len(rows), 1), expert, device=hidden.device))[:, 0]
        at = int(outputs.detach().abs().argmax())
        output = outputs.flatten()[at]
        name, parameter = _last_projection(layer)
        (gradient,) = torch.autograd.grad(output, [parameter])
    added = (gradient * parameter.detach()).flatten()
    place = int(added.abs().argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), parameter.shape))
    value, share = float(parameter.detach().flatten()[place]), float(added[place] / output.detach())
    return SuperWeight(name, where, value, float(output.detach()), share)


def _value(layer: MoELayer, weight: SuperWeight) -> float:
    return float(layer.experts.get_parameter(weight.parameter).detach()[weight.place])


def _last_projection(layer: MoELayer) -> tuple[str, Tensor]:
    """The weights that make the outputs; every family of fused experts calls them so, but for two."""
    named = {name: p for name, p in layer.experts.named_parameters() if p.dim() > 1}
    for wanted in ("down_proj", "output_linear", "w2"):
        for name, parameter in named.items():
            if wanted in name and "bias" not in name:
                return name, parameter
    raise AnalysisError(f"a super weight is one of the last projection; {layer.name} has {', '.join(named)}")
