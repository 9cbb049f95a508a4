"""The selection bias: usage of one optimizer step in, new bias out (paper, "bias-driven sparsification")."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Num
from torch import Tensor

from expert_condenser.errors import RoutingError

BiasRule = Literal["sparsify", "balance"]
Direction = Literal["sign", "proportional"]


def update_bias(  # noqa: PLR0913 - the rule has that many terms, each off by default
    bias: Float[Tensor, "*L E"],
    usage: Num[Tensor, "*L E"],
    step: float,
    rule: BiasRule = "sparsify",
    *,
    direction: Direction = "sign",
    decay: float = 0.0,
    keep: float = 1.0,
    competes: Bool[Tensor, "*L E"] | None = None,
    center: Literal["none", "mean"] = "none",
    clip: float | None = None,
) -> Float[Tensor, "*L E"]:
    """One step of the rule, for one layer or a stack of them.

        sparsify:  beta_i + step * sign(u_i - ubar)     busy experts up, long-tailed experts down
        balance:   beta_i - step * sign(u_i - ubar)     loss-free balancing, arXiv 2408.15664

    With `direction="proportional"` the sign becomes `tanh((u_i - ubar) / ubar)`, which keeps how far an expert is off;
    with `decay` (lambda) and `keep` the experts that compete get

        beta_i <- keep * ((1 - lambda) beta_i + step * direction_i)

    `step` is the paper's gamma, in the units of the bias (logits). `ubar` is the mean of `usage` over
    the experts that compete (all of them by default; condensers do not), the others keep their bias,
    and sign(0) = 0. Counts are compared exactly. Then `center` and `clip` apply, in this order, to the
    experts that compete. Returns a new float32 tensor. Raises `RoutingError` on a bias that is not
    float32, an unknown rule, a negative step, or usage that is not finite.
    """
    _check(bias, usage, step, rule, clip)
    if not (0 <= decay < 1 and 0 <= keep <= 1):
        raise RoutingError(f"decay is a share in [0, 1), and keep one in [0, 1]; got {decay} and {keep}")
    competing = torch.ones_like(usage, dtype=torch.bool) if competes is None else competes
    moves = usage_direction(usage, competing) if direction == "sign" else usage_distance(usage, competing)
    kept = bias if decay == 0 else torch.where(competing, (1 - decay) * bias, bias)
    updated = kept + (step if rule == "sparsify" else -step) * moves.to(bias.dtype)
    updated = updated if keep == 1 else torch.where(competing, keep * updated, updated)
    if center == "mean":
        mean = (updated * competing).sum(-1, keepdim=True) / competing.sum(-1, keepdim=True)
        updated = torch.where(competing, updated - mean, updated)
    return updated if clip is None else torch.where(competing, updated.clamp(-clip, clip), updated)


def usage_direction(usage: Num[Tensor, "*L E"], competing: Bool[Tensor, "*L E"]) -> Num[Tensor, "*L E"]:
    """`sign(u_i - ubar)` of the competing experts, 0 elsewhere, as `sign(n u_i - sum u)`: no rounding of counts."""
    exact = usage if not usage.is_floating_point() else usage.double()
    total = (exact * competing).sum(-1, keepdim=True)
    return torch.sign(exact * competing.sum(-1, keepdim=True) - total) * competing


def usage_distance(usage: Num[Tensor, "*L E"], competing: Bool[Tensor, "*L E"]) -> Float64[Tensor, "*L E"]:
    """`tanh((u_i - ubar) / ubar)` of the competing experts, 0 elsewhere, and 0 where nothing was used."""
    exact = usage.double()
    mean = (exact * competing).sum(-1, keepdim=True) / competing.sum(-1, keepdim=True)
    relative = torch.where(mean > 0, (exact - mean) / torch.where(mean > 0, mean, 1.0), 0.0)
    return torch.tanh(relative) * competing


def annealing(step: int, steps: int) -> float:
    """What `keep` is in the `step`-th of `steps` updates, from 1 on: `(steps - step) / (steps - step + 1)`.

    A bias that does not move falls to 0 on a straight line, and every bias is 0 after the last update.
    """
    return (steps - step) / (steps - step + 1) if step <= steps else 0.0


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
