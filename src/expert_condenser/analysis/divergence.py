"""How far a tuned layer's output is from the base's on the same inputs ("weighted MoE output divergence", Fig. 4).

    d = E_x ‖y_tuned(x) - y_base(x)‖₂ / E_x ‖y_base(x)‖₂          (*ours*)

y is the sum of the experts' outputs by their gate weights. x are the inputs of the layer in the base's forward, so what
earlier layers changed is not in it: a layer whose router and experts were left alone has 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.calls import calls_by_batch
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.experts_calls import ExpertsCall, check_calls, mixture_on
from expert_condenser.moe.layers import MoELayer, decoder_depth, moe_layers
from expert_condenser.moe.probe import in_evaluation


@dataclass(frozen=True)
class Divergence:
    """Of one tuned model from its base."""

    name: str
    layers: tuple[int, ...]
    relative: Float64[Tensor, " L"]
    changed_choice: Float64[Tensor, " L"]
    """Share of the tokens that get other experts from the tuned router, on the same inputs."""


@torch.no_grad()
def divergence_of(name: str, base: Any, tuned: Any, rows: Sequence[Tokens], *, batch_size: int = 16) -> Divergence:
    """Run the base's decoder on rows, and let each tuned layer answer the same inputs.

    Raises `AnalysisError` where the models have other layers, and `UnsupportedModelError` where a router cannot be
    called alone.
    """
    layers, others = moe_layers(base), moe_layers(tuned)
    check_calls([*layers, *others], replayed=True)
    depths, theirs = (tuple((decoder_depth(x), x.num_experts) for x in found) for found in (layers, others))
    if depths != theirs:
        raise AnalysisError(f"the layers of {name} are those of its base; they are others here: name its own base")
    sums = torch.zeros(len(layers), 4, dtype=torch.float64)
    with in_evaluation(tuned):
        for calls, real in calls_by_batch(base, rows, batch_size):
            for index, call in enumerate(calls):
                sums[index] += _compared(others[index], call, real.to(call.hidden.device)).cpu()
    return Divergence(name, tuple(depth for depth, _ in depths), sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3])


def _compared(layer: MoELayer, call: ExpertsCall, real: Tensor) -> Float64[Tensor, " 4"]:
    """Sums over real tokens: norm of the difference, norm of the base's output, changed choices, tokens."""
    output, choice = mixture_on(layer, call)
    nobody = torch.zeros(len(real), layer.num_experts, dtype=torch.bool, device=real.device)
    changed = (nobody.scatter(1, call.indices, True) != nobody.scatter(1, choice.indices, True)).any(1)
    distance, size = (x.double().norm(dim=-1)[real].sum() for x in (output - call.output, call.output))
    return torch.stack([distance, size, changed[real].sum().double(), real.sum().double()])
