"""The selection bias: usage of one optimizer step in, new bias out (paper, "bias-driven sparsification")."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from expert_condenser.errors import RoutingError

BiasRule = Literal["sparsify", "balance"]


def update_bias(
    bias: Float[Tensor, "*L E"],
    usage: Num[Tensor, "*L E"],
    step: float,
    rule: BiasRule = "sparsify",
    *,
    competes: Bool[Tensor, "*L E"] | None = None,
    center: Literal["none", "mean"] = "none",
    clip: float | None = None,
) -> Float[Tensor, "*L E"]:
    """One step of the rule, for one layer or a stack of them.

        sparsify:  beta_i + step * sign(u_i - ubar)     busy experts up, long-tailed experts down
        balance:   beta_i - step * sign(u_i - ubar)     loss-free balancing, arXiv 2408.15664

    `step` is the paper's gamma, in the units of the bias (logits). `ubar` is the mean of `usage` over
    the experts that compete (all of them by default; condensers do not), the others keep their bias,
    and sign(0) = 0. Counts are compared exactly. Then `center` and `clip` apply, in this order, to the
    experts that compete. Returns a new float32 tensor. Raises `RoutingError` on a bias that is not
    float32, an unknown rule, a negative step, or usage that is not finite.
    """
    _check(bias, usage, step, rule, clip)
    competing = torch.ones_like(usage, dtype=torch.bool) if competes is None else competes
    direction = usage_direction(usage, competing)
    updated = bias + (step if rule == "sparsify" else -step) * direction.to(bias.dtype)
    if center == "mean":
        mean = (updated * competing).sum(-1, keepdim=True) / competing.sum(-1, keepdim=True)
        updated = torch.where(competing, updated - mean, updated)
    return updated if clip is None else torch.where(competing, updated.clamp(-clip, clip), updated)


def usage_direction(usage: Num[Tensor, "*L E"], competing: Bool[Tensor, "*L E"]) -> Num[Tensor, "*L E"]:
    """`sign(u_i - ubar)` of the competing experts, 0 elsewhere, as `sign(n u_i - sum u)`: no rounding of counts."""
    exact = usage if not usage.is_floating_point() else usage.double()
    total = (exact * competing).sum(-1, keepdim=True)
    return torch.sign(exact * competing.sum(-1, keepdim=True) - total) * competing


def _check(bias: Tensor, usage: Tensor, step: float, rule: str, clip: float | None) -> None:
    if rule not in ("sparsify", "balance"):
        raise RoutingError(f"the bias rule is 'sparsify' or 'balance'; got {rule!r}")
    if bias.dtype != torch.float32:
        raise RoutingError(
            f"the selection bias is float32, since small steps vanish in half precision; got {bias.dtype}"
        )
    if not 0 <= step < float("inf"):
        raise RoutingError(f"the bias step (gamma) is not negative, the rule gives the direction; got {step}")
    if clip is not None and not clip > 0:
        raise RoutingError(f"clip is a positive bound on |bias|; got {clip}")
    if usage.is_floating_point() and not torch.isfinite(usage).all():
        raise RoutingError("usage is finite; got NaN or infinity: the logits that it was measured on were broken")
