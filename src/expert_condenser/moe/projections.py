"""From hidden states to the logits of a router, `(T, E)`: one function per way that families have.

What differs is the dtype that they compute in, with and without autocast, and where the weight is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def _flat(hidden: Tensor) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1])


def plain(router: Any, hidden: Tensor) -> Tensor:
    """The product, in the dtype of the model or of autocast."""
    return linear(_flat(hidden), router.weight)


def with_bias(router: Any, hidden: Tensor) -> Tensor:
    """The same, with a bias on the logits."""
    return linear(_flat(hidden), router.weight, router.bias)


def in_float32(router: Any, hidden: Tensor) -> Tensor:
    """The product of float32 copies; autocast may still narrow it."""
    return linear(_flat(hidden).float(), router.weight.float())


def kolibri(router: Any, hidden: Tensor) -> Tensor:
    """As `in_float32`; without a graph on CUDA, only the sum is."""
    flat = _flat(hidden)
    if flat.is_cuda and flat.dtype == router.weight.dtype and not torch.is_grad_enabled():
        return torch.mm(flat, router.weight.t(), out_dtype=torch.float32)  # as the family does when it infers
    return in_float32(router, hidden)


def without_autocast(router: Any, hidden: Tensor) -> Tensor:
    """The product in float32, whatever autocast says."""
    with torch.autocast(hidden.device.type, enabled=False):
        return in_float32(router, hidden)


def to_float32(router: Any, hidden: Tensor) -> Tensor:
    """The product in the dtype of the model, widened after."""
    return plain(router, hidden).float()


def like_weight(router: Any, hidden: Tensor) -> Tensor:
    """The product in the dtype of the weight, which the family keeps in float32."""
    return linear(_flat(hidden).to(router.weight.dtype), router.weight)


def softcapped(router: Any, hidden: Tensor) -> Tensor:
    """A product that a scaled tanh keeps within the cap, where there is one."""
    logits, cap = to_float32(router, hidden), router.router_logit_softcapping
    return torch.tanh(logits / cap) * cap if cap > 0 else logits


def multiplied(router: Any, hidden: Tensor) -> Tensor:
    """The product in float32 times a constant."""
    return in_float32(router, hidden) * router.output_multiplier


def afmoe(router: Any, hidden: Tensor) -> Tensor:
    """That of a linear module inside the router, widened after."""
    return router.gate(_flat(hidden)).to(torch.float32)


def hunyuan(router: Any, hidden: Tensor) -> Tensor:
    """That of a linear module inside the router, in the dtype of its weight if that is float32."""
    flat = _flat(hidden)
    return router.wg(flat.float() if router.wg.weight.dtype == torch.float32 else flat)


def gemma4(router: Any, hidden: Tensor) -> Tensor:
    """Of normalised hidden states, each dimension times a learnt factor."""
    # Of tokens in one row already: one more view would add up the gradients in another order.
    return router.proj(router.norm(hidden) * router.scale * router.scalar_root_size)


def phimoe(router: Any, hidden: Tensor) -> Tensor:
    """Of hidden states that are noisy in training, where the config says so; the experts get the same."""
    if router.training and router.input_jitter_noise > 0:
        noise = router.input_jitter_noise
        hidden *= torch.empty_like(hidden).uniform_(1.0 - noise, 1.0 + noise)
    return linear(hidden, router.weight)


def longcat(router: Any, hidden: Tensor) -> Tensor:
    """As `in_float32`, of a linear module inside the router whose bias the family leaves out where it has one."""
    return linear(_flat(hidden).type(torch.float32), router.classifier.weight.type(torch.float32))


def none(block: Any, logits: Tensor) -> Tensor:
    """The logits as they are, where a block chooses by those of its router (DBRX)."""
    return logits
