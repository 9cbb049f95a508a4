"""DenseMixer (NeurIPS 2025): the forward of the sparse mixture, and for the router the gradient of the dense one.

    y = sum_i (q_i + (q_i [i chosen] - q_i).detach()) E_i(x)        section 6 of docs/method.md

`plain` computes this as it stands, with every expert on every token. `lean` leaves the forward to the chosen
experts and computes `dL/dq_i = <E_i(x), dL/dy>` of the others in the backward pass, as many experts at a time as
the forward ran: its extra memory is that of the sparse forward, O(T D), not O(T E D).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.functional.scoring import mixture_weights, routed_logits
from expert_condenser.moe.experts import inner_products_of
from expert_condenser.moe.layers import MoELayer

Mixer = Literal["lean", "plain"]


def plain_mixture(
    weights: Float[Tensor, "T E"], indices: Int[Tensor, "T K"]
) -> tuple[Float[Tensor, "T E"], Int[Tensor, "T E"]]:
    """All E experts of every token, with the value of the sparse weights and the gradient of the dense ones."""
    chosen = torch.zeros_like(weights).scatter(-1, indices, 1.0)
    everyone = torch.arange(weights.shape[-1], device=indices.device).expand_as(weights)
    return weights + (weights * chosen - weights).detach(), everyone


class LeanMixture(torch.autograd.Function):
    """Adds nothing to the output, and in the backward pass the router's gradient from the experts not chosen."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        weights: Float[Tensor, "T E"],
        hidden: Float[Tensor, "T D"],
        indices: Int[Tensor, "T K"],
        experts: Any,
        identity: int | None,
    ) -> Float[Tensor, "T D"]:
        ctx.save_for_backward(hidden, indices)
        ctx.experts, ctx.identity, ctx.num_experts, ctx.dtype = experts, identity, weights.shape[-1], weights.dtype
        device = hidden.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return torch.zeros_like(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: D102
        hidden, indices = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled):  # as in the experts' forward
            dense = dense_products(ctx.experts, hidden, gradients[0], ctx.num_experts, indices.shape[-1], ctx.identity)
        return dense.to(ctx.dtype).scatter(-1, indices, 0.0), None, None, None, None


def dense_products(
    experts: Any,
    hidden: Float[Tensor, "T D"],
    gradient: Float[Tensor, "T D"],
    num_experts: int,
    at_once: int,
    identity: int | None = None,
) -> Float[Tensor, "T E"]:
    """`<E_i(x), dL/dy>` of every token for all experts; `identity` is an expert that is it, where there are such."""
    dense = inner_products_of(experts, hidden, gradient)
    if dense is not None:
        return dense
    chunks = torch.split(torch.arange(num_experts, device=hidden.device), at_once)
    products = [_inner_products(experts, hidden, gradient, chunk, identity) for chunk in chunks]
    return torch.cat(products, dim=-1)


def _inner_products(
    experts: Any,
    hidden: Float[Tensor, "T D"],
    gradient: Float[Tensor, "T D"],
    ids: Int[Tensor, " C"],
    identity: int | None,
) -> Float[Tensor, "T C"]:
    """The same for the experts `ids`, by one forward of the family's own experts."""
    rows = hidden.repeat(len(ids), 1)
    slots, weights = ids.repeat_interleave(len(hidden))[:, None], rows.new_ones(len(rows), 1)
    if identity is not None:
        # LongCat's experts fail on a single slot per token; a second one, of the identity with weight 0, costs nothing.
        slots, weights = (pad(x, (0, 1), value=v) for x, v in ((slots, identity), (weights, 0.0)))
    outputs = experts.forward(rows, slots, weights)
    return (outputs.view(len(ids), *hidden.shape) * gradient).sum(dim=-1).T


def check_mixture(layers: Sequence[MoELayer]) -> None:
    """Raise `UnsupportedModelError` where the output of the experts is no sum weighed by scores."""
    for layer in layers:
        if layer.rule.sparse_gradient_only is not None:
            raise UnsupportedModelError(
                f"DenseMixer gives the router the gradient of sum_i q_i E_i(x); {layer.name} "
                f"({type(layer.router).__name__}): {layer.rule.sparse_gradient_only}. Take another method."
            )


def install_mixture(layer: MoELayer, mixer: Mixer) -> None:
    """Let a counted router train as in the dense mixture; evaluation stays as it is."""
    layer.router.mixer, layer.router.mixture, layer.router.mixture_hook = mixer, None, None
    if mixer == "lean":
        layer.router.mixture_hook = layer.experts.register_forward_hook(_LeanHook(layer.router), always_call=True)


def remove_mixture(router: Any) -> None:
    """Undo `install_mixture`."""
    if router.mixer is not None:
        if router.mixture_hook is not None:
            router.mixture_hook.remove()
        del router.mixer, router.mixture, router.mixture_hook


def forget_mixture(router: Any) -> None:
    """Let go of a choice that no experts took: its tensors hold the graph of the layers before."""
    if router.mixer is not None:
        router.mixture = None


class _LeanHook:
    """After the experts' forward, also a failed one: attach the gradient that belongs to the router's last choice."""

    def __init__(self, router: Any) -> None:
        self.router = router

    def __call__(self, experts: nn.Module, args: tuple[Any, ...], output: Tensor | None) -> Tensor | None:
        choice, self.router.mixture = self.router.mixture, None
        if choice is None or output is None:
            return None
        weights, indices = choice
        hidden = args[0].reshape(-1, args[0].shape[-1]).detach()
        identity = self.router.num_experts - 1 if self.router.rule.num_identity(self.router) else None
        mixed = LeanMixture.apply(weights, hidden, indices, experts, identity)  # type: ignore[no-untyped-call]
        return output + mixed.view_as(output)


def mix(router: Any, logits: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """What a router with a mixer returns: all experts under `plain`, its own choice under `lean`."""
    dense = mixture_weights(logits, indices, router.scoring)
    dense = (dense if router.gain is None else dense * router.gain).to(weights.dtype)
    dense = routed_logits(dense, router.scoring)  # shared experts have their weights already
    if router.mixer == "plain":
        return plain_mixture(dense, indices)
    router.mixture = (dense, indices)
    return weights, indices
