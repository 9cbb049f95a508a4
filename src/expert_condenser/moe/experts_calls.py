"""What goes into the experts of a layer and what comes out, in any forward; what its experts make of other tokens."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.handover import SCORES, TUPLE, Choice
from expert_condenser.moe.layers import MoELayer


class ExpertsCall(NamedTuple):
    """One call of a layer's experts; T tokens, padding included."""

    routed: tuple[Any, ...]
    """What the router got."""
    hidden: Float[Tensor, "T D"]
    indices: Int[Tensor, "T S"]
    weights: Float[Tensor, "T S"]
    output: Float[Tensor, "T D"]
    """The sum of the experts' outputs by their weights, without shared experts that run beside them."""


def check_calls(layers: Sequence[MoELayer], *, replayed: bool = False) -> None:
    """Raise `UnsupportedModelError` where experts are not called with (hidden, indices, weights).

    `replayed`: or where a router cannot be called without the block around it.
    """
    for layer in layers:
        handover = layer.rule.handover
        if handover is SCORES or (replayed and handover is not TUPLE):
            raise UnsupportedModelError(
                f"outputs of experts are read where a router returns its choice and experts take it; {layer.name} "
                f"({type(layer.router).__name__}) and the block around it do so in another way"
            )


def on_experts(layer: MoELayer, listener: Callable[[ExpertsCall], None]) -> Callable[[], None]:
    """Call `listener` after every call of the layer's experts, until the function that is returned is called."""
    routed: list[tuple[Any, ...]] = [()]

    def asked(router: Any, args: tuple[Any, ...]) -> None:
        routed[0] = args

    def answered(experts: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        hidden, indices, weights = args
        width = hidden.shape[-1]
        listener(ExpertsCall(routed[0], hidden.reshape(-1, width), indices, weights, output.reshape(-1, width)))

    handles = (layer.router.register_forward_pre_hook(asked), layer.experts.register_forward_hook(answered))

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop


def mixture_on(layer: MoELayer, call: ExpertsCall) -> tuple[Float[Tensor, "T D"], Choice]:
    """What this layer's own router and experts make of the inputs of another layer's call, and whom it chose."""
    choice = layer.rule.handover.read(layer.router, layer.router(*call.routed), call.routed[0])
    output: Tensor = layer.experts(call.hidden, choice.indices, choice.weights)
    return output.reshape(call.hidden.shape), choice


def expert_outputs(
    layer: MoELayer, hidden: Float[Tensor, "T D"], indices: Int[Tensor, "T S"]
) -> Float[Tensor, "T S D"]:
    """`E_i(x)` without its weight, for each of the named experts of every token."""
    slots = indices.shape[-1]
    rows, ids = hidden.repeat_interleave(slots, dim=0), indices.reshape(-1, 1)
    weights = rows.new_ones(len(rows), 1)
    if layer.num_weighted < layer.num_experts:
        # LongCat's experts fail on a single slot per token; a second one, of the identity with weight 0, costs nothing.
        ids, weights = pad(ids, (0, 1), value=layer.num_experts - 1), pad(weights, (0, 1))
    experts: Any = layer.experts
    outputs: Tensor = experts.forward(
        rows, ids, weights
    )  # not called: what listens to the model's forward is not meant
    return outputs.view(len(hidden), slots, -1)


def all_outputs(layer: MoELayer, hidden: Float[Tensor, "T D"]) -> Float[Tensor, "E T D"]:
    """`E_i(x)` of all experts."""
    everyone = torch.arange(layer.num_experts, device=hidden.device).expand(len(hidden), -1)
    return expert_outputs(layer, hidden, everyone).transpose(0, 1)
