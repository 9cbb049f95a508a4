"""What makes an expert important: the criteria that `prune` keeps experts by, a number for each, the highest kept.

    activation       selections of the expert
    gate_mass        sum of its gate weights
    weight_norm      Frobenius norm of its weights
    bias             its learnt selection bias
    reap             mean over the tokens that chose it of g_i(x) ‖E_i(x)‖₂                    (arXiv 2510.13999)
    reconstruction   sum over tokens of ‖y(x) - y(x without i)‖₂², routed anew         (*ours*, after 2402.14800)

arXiv 2402.14800 looks at every subset of a layer's experts for the one that loses least; that is out of reach for 64.
Here experts are ranked by what is lost without each of them alone.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from expert_condenser.analysis.calls import calls_on
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.experts_calls import ExpertsCall, check_calls, expert_outputs, mixture_on
from expert_condenser.moe.layers import MoELayer, expert_norms, moe_layers
from expert_condenser.moe.without_experts import under_policy, without_experts

CRITERIA = ("activation", "gate_mass", "weight_norm", "bias", "reap", "reconstruction")


@torch.no_grad()
def score_experts(
    model: Any,
    rows: Sequence[Tokens],
    criteria: Sequence[str],
    *,
    tokens: int = 2048,
    advance: Callable[[int], None] = lambda layers: None,
) -> dict[str, Float64[Tensor, "L E"]]:
    """The scores by each criterion, on the first `tokens` tokens of the rows.

    Raises `AnalysisError` on an unknown criterion, and on `bias` where the model has none or all are equal. `advance`
    is called for each layer.
    """
    check_criteria(criteria)
    layers = moe_layers(model)
    check_calls(layers)
    if "reconstruction" in criteria:
        check_calls(layers, replayed=True)
    calls = calls_on(model, rows, tokens) if set(criteria) - {"weight_norm", "bias"} else [None] * len(layers)
    found: dict[str, list[Tensor]] = {name: [] for name in criteria}
    with under_policy(model) if "reconstruction" in criteria else nullcontext():  # once, not for every expert
        for index, (layer, call) in enumerate(zip(moe_layers(model), calls, strict=True)):
            for name in criteria:
                found[name].append(_SCORE[name](layer, call, model, index).double().cpu())
            advance(1)
    return {name: torch.stack(rows_) for name, rows_ in found.items()}


def check_criteria(criteria: Sequence[str]) -> None:
    """Raise `AnalysisError` on a criterion that there is not, and on none."""
    if not criteria:
        raise AnalysisError(f"experts are kept by a criterion or more, of {', '.join(CRITERIA)}; got none; name one")
    if unknown := [name for name in criteria if name not in CRITERIA]:
        raise AnalysisError(f"a criterion is one of {', '.join(CRITERIA)}; got {', '.join(unknown)}; correct the name")


def _activation(layer: MoELayer, call: ExpertsCall, model: Any, index: int) -> Tensor:
    return torch.bincount(call.indices.flatten(), minlength=layer.num_experts)


def _gate_mass(layer: MoELayer, call: ExpertsCall, model: Any, index: int) -> Tensor:
    return _sums(call.indices, call.weights, layer.num_experts)


def _weight_norm(layer: MoELayer, call: Any, model: Any, index: int) -> Tensor:
    return expert_norms(layer)


def _bias(layer: MoELayer, call: Any, model: Any, index: int) -> Tensor:
    bias: Tensor | None = getattr(layer.router, "selection_bias", None)
    if bias is None or bool((bias == bias[0]).all()):
        raise AnalysisError(
            f"experts are kept by a learnt bias, and {layer.name} has none: all are equal; take another criterion"
        )
    return bias


def _reap(layer: MoELayer, call: ExpertsCall, model: Any, index: int) -> Tensor:
    sizes = torch.cat(
        [
            expert_outputs(layer, h, i).norm(dim=-1)
            for h, i in zip(torch.split(call.hidden, 512), torch.split(call.indices, 512), strict=True)
        ]
    )
    total = _sums(call.indices, call.weights * sizes, layer.num_experts)
    return total / _activation(layer, call, model, index).clamp(min=1)


def _reconstruction(layer: MoELayer, call: ExpertsCall, model: Any, index: int) -> Tensor:
    lost = []
    for expert in range(layer.num_experts):
        with without_experts(model, {index: [expert]}, rescale=False):
            output, _ = mixture_on(moe_layers(model)[index], call)
        lost.append((output - call.output).double().pow(2).sum())
    return torch.stack(lost)


def _sums(indices: Int[Tensor, "T S"], values: Tensor, size: int) -> Float64[Tensor, " E"]:
    zeros = torch.zeros(size, dtype=torch.float64, device=indices.device)
    return zeros.index_add_(0, indices.flatten(), values.double().flatten())


_SCORE: dict[str, Callable[[MoELayer, Any, Any, int], Tensor]] = {
    "activation": _activation,
    "gate_mass": _gate_mass,
    "weight_norm": _weight_norm,
    "bias": _bias,
    "reap": _reap,
    "reconstruction": _reconstruction,
}


def random_scores(shape: tuple[int, int], seed: int) -> Float64[Tensor, "L E"]:
    """Scores that depend on the seed alone; Python promises the sequence, and torch does not."""
    draw = random.Random(seed)
    return torch.tensor([[draw.random() for _ in range(shape[1])] for _ in range(shape[0])], dtype=torch.float64)
