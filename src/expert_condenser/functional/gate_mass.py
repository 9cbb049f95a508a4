"""What condensers do to the scale of a layer, and ways to keep it (*ours*; section 10 of docs/method.md).

A condenser is weighed by its own score, which is often small. So the weights of a token's experts sum to `M`, less than
`S_K`, the sum that the rest of the network was trained for: that of the weights which the family gives its own choice,
the K largest scores. Where a family divides by the sum of the chosen, `M = S_K`.

Pure functions on tensors. Shape letters: `T` tokens, `S` slots (columns).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def keep_mass(weights: Float[Tensor, "T S"], mass: Float[Tensor, "T 1"]) -> Float[Tensor, "T S"]:
    """`g_i = s_i * stopgrad(S_K / M)`, so that the weights sum to `mass` again; the quotient has no gradient.

    Where all weights are 0 they stay 0.
    """
    total = weights.detach().sum(dim=-1, keepdim=True)
    return weights * _quotient(mass.detach(), total)


def raise_to_floor(
    weights: Float[Tensor, "T S"],
    is_condenser: Bool[Tensor, "T S"],
    mass: Float[Tensor, "T 1"],
    least: Float[Tensor, "T 1"],
) -> Float[Tensor, "T S"]:
    """`g_c = max(s_c, least)` for condensers; what is left of `mass` goes to the routed experts, as `s_i` divide it.

        g_i = s_i * stopgrad((S_K - sum_c g_c) / sum_routed s)

    Where the condensers alone outweigh `mass`, the routed experts get 0 and the condensers are scaled to it: the sum is
    `mass` for every token. `mass` and `least` are constants to the gradient, so a condenser that is raised has none
    through its weight, while those above the floor and the routed experts have their own.
    """
    mass, least = mass.detach(), least.detach()
    raised = torch.where(is_condenser, torch.maximum(weights, least), 0.0)
    routed = torch.where(is_condenser, 0.0, weights)
    of_condensers = raised.detach().sum(dim=-1, keepdim=True)
    left = (mass - of_condensers).clamp(min=0.0)
    too_much = _quotient(mass, of_condensers).clamp(max=1.0)
    return raised * too_much + routed * _quotient(left, routed.detach().sum(dim=-1, keepdim=True))


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient; 1 where the denominator is 0, for what is multiplied by it is 0 there."""
    return torch.where(denominator == 0, 1.0, numerator / torch.where(denominator == 0, 1.0, denominator))


def recycled_gates(
    hidden: Float[Tensor, "T D"],
    weights: Float[Tensor, "T S"],
    offset: Float[Tensor, " R"],
    direction: Float[Tensor, "R D"],
) -> Float[Tensor, "T R"]:
    """`S_K tanh(a_c + v_c . x)`, with `S_K` the sum of the weights of the K chosen; at least in float32."""
    exact = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        inside = torch.nn.functional.linear(hidden.to(exact), direction.to(exact), offset.to(exact))
        return weights.to(exact).sum(dim=-1, keepdim=True) * torch.tanh(inside)
