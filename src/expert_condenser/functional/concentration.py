"""How unevenly tokens fall on experts: Gini index, entropy, diversity, top and dead share, overlap.

Every function takes usage vectors `(*batch, E)`, counts or probability masses of any numeric dtype, computes in
float64 and returns float64 `(*batch)`. `p_i = u_i / sum_j u_j` is an expert's share.

A vector of zeros means that nothing was counted: `gini`, `entropy`, `diversity`, `top_share` and `overlap` are 0
for it, and `dead_share` is 1. Usage that is negative or not finite raises `RoutingError`.
"""

import torch
from jaxtyping import Float64, Num
from torch import Tensor

from expert_condenser.errors import RoutingError


def gini(usage: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """Gini index: 0 when all experts are used alike, (E-1)/E when one expert takes every token.

    Formula: `sum_i (2 i - E - 1) u_(i) / (E sum_i u_i)`, with `u_(1) <= ... <= u_(E)` the sorted usage.

    Source: Gini, "Variabilità e mutabilità", 1912, in its form for sorted samples.
    """
    ascending = _checked(usage).sort(dim=-1).values
    num_experts = ascending.shape[-1]
    ranks = torch.arange(1, num_experts + 1, dtype=torch.float64, device=ascending.device)
    spread = ((2 * ranks - num_experts - 1) * ascending).sum(dim=-1)
    return (spread / (num_experts * _safe_total(ascending))).clamp(min=0)


def entropy(usage: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """Shannon entropy in nats, `H = -sum_i p_i ln p_i`: 0 for one expert, ln E for uniform usage."""
    return torch.special.entr(_shares(_checked(usage))).sum(dim=-1)


def diversity(usage: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """Effective number of experts as a share of all, `exp(H) / E`: 1/E for one expert, 1 for uniform usage."""
    effective = entropy(usage).exp() / usage.shape[-1]
    return torch.where((usage != 0).any(dim=-1), effective.clamp(max=1), 0.0)


def top_share(usage: Num[Tensor, "*batch E"], n: int) -> Float64[Tensor, "*batch"]:
    """Share of all usage that falls on the `n` busiest experts, `1 <= n <= E` or `RoutingError`."""
    num_experts = usage.shape[-1]
    if not 1 <= n <= num_experts:
        raise RoutingError(
            f"the top share is that of 1 to E experts; got n = {n} with E = {num_experts}; choose n between these"
        )
    counts = _checked(usage)
    busiest = counts.topk(n, dim=-1).values.sum(dim=-1)
    return (busiest / _safe_total(counts)).clamp(max=1)


def dead_share(usage: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """Share of the experts that no token used: 0 when every expert has usage."""
    return (_checked(usage) == 0).double().mean(dim=-1)


def overlap(a: Num[Tensor, "*batch E"], b: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """Common part of two usage distributions, `sum_i min(p_i(a), p_i(b))`: 1 when equal, 0 when disjoint.

    It is 1 minus their total variation distance, and blind to how many tokens either was counted on.
    """
    common = torch.minimum(_shares(_checked(a)), _shares(_checked(b)))
    return common.sum(dim=-1).clamp(max=1)


def _checked(usage: Num[Tensor, "*batch E"]) -> Float64[Tensor, "*batch E"]:
    """The usage in float64; `RoutingError` for values that are negative or not finite."""
    counts = usage.detach().double()
    wrong = ~(counts.isfinite() & (counts >= 0))
    if wrong.any():
        raise RoutingError(
            f"usage must be finite and not negative; got {counts[wrong][0].item():g} among {int(wrong.sum())} wrong "
            "values; pass the counts (or masses) of tokens per expert"
        )
    return counts


def _safe_total(counts: Float64[Tensor, "*batch E"]) -> Float64[Tensor, "*batch"]:
    """The sum over experts, or 1 where nothing was counted, so that the shares there are 0."""
    total = counts.sum(dim=-1)
    return torch.where(total > 0, total, 1.0)


def _shares(counts: Float64[Tensor, "*batch E"]) -> Float64[Tensor, "*batch E"]:
    """`p_i`, all 0 where nothing was counted."""
    return counts / _safe_total(counts).unsqueeze(-1)
