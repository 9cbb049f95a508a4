"""Experts spread over ranks: the load of each rank, and the bytes that a token sends, under expert parallelism.

Letters: E experts, N ranks, K slots per token, R condensers, L layers. Ranks hold consecutive experts, as many each as
E over N allows; every rank brings the same number of tokens. Loads are in tokens per token that a rank brings.
"""

import torch
from jaxtyping import Float64, Int, Num
from torch import Tensor

from expert_condenser.errors import RoutingError


def resampled(usage: Num[Tensor, "*L E"], num_experts: int) -> Float64[Tensor, "*L M"]:
    """Shares of another number of experts with the same curve of usage, ascending; they sum to 1.

    The sorted shares are a quantile function, known at the middles `(i + 0.5) / E`; it is read at those of the new
    experts, linearly between and constant beyond. So the busiest expert keeps its distance from the mean, or comes
    nearer; a model with more experts may well be more uneven than that.
    """
    ascending = (usage.double() / usage.double().sum(-1, keepdim=True)).sort(dim=-1).values
    size = ascending.shape[-1]
    at = (torch.arange(num_experts, dtype=torch.float64) + 0.5) / num_experts * size - 0.5
    low = at.floor().clamp(0, size - 1).long()
    high = (low + 1).clamp(max=size - 1)
    weight = (at - low).clamp(0, 1)
    curve = ascending[..., low] * (1 - weight) + ascending[..., high] * weight
    return curve / curve.sum(-1, keepdim=True)


def expert_ranks(num_experts: int, ranks: int) -> Int[Tensor, " E"]:
    """The rank of every expert: consecutive ones together, the first ranks with one more where E is no multiple.

    Raises `RoutingError` where there are more ranks than experts: they form groups then, each with all experts.
    """
    if not 1 <= ranks <= num_experts:
        raise RoutingError(f"a rank holds one expert or more; got {ranks} ranks and {num_experts} experts; take fewer")
    sizes = [num_experts // ranks + (rank < num_experts % ranks) for rank in range(ranks)]
    return torch.arange(ranks).repeat_interleave(torch.tensor(sizes))


def rank_loads(loads: Float64[Tensor, "*L E"], ranks: int) -> Float64[Tensor, "*L N"]:
    """The sum of the experts' loads on every rank."""
    found = torch.zeros(*loads.shape[:-1], ranks, dtype=torch.float64)
    return found.index_add_(-1, expert_ranks(loads.shape[-1], ranks), loads)


def imbalance(loads: Float64[Tensor, "*L N"]) -> Float64[Tensor, "*L"]:
    """The busiest rank's load over the mean, 1 at best: how many times longer the experts take than they need to."""
    return loads.max(-1).values / loads.mean(-1)


def expert_loads(
    shares: Float64[Tensor, "*L E"],
    top_k: int,
    condensers: Int[Tensor, "*L R"],
    *,
    ranks: int,
    replicated: bool,
) -> Float64[Tensor, "*L E"]:
    """Rows that every expert computes per token that a rank brings, where N ranks bring tokens.

        routed:     N (K - R) p_i / sum_j p_j      over the experts j that are no condensers
        condenser:  N on its owner; 0 if it is replicated, where every rank computes its own tokens' R rows itself

    The K - R slots keep the shares of all K: how the first slots differ from the last, counts do not say.
    """
    routed = shares.scatter(-1, condensers, 0.0)
    loads = ranks * (top_k - condensers.shape[-1]) * routed / routed.sum(-1, keepdim=True)
    return loads if replicated else loads.scatter(-1, condensers, float(ranks))


def bytes_per_token(slots: int, ranks: int, *, hidden_size: int, itemsize: int) -> float:
    """What a token sends to the experts of one layer and gets back in a forward, `2 slots (1 - 1/N) D itemsize`.

    A slot stays where it is with a chance of 1/N. Backward sends as much again.
    """
    return 2 * slots * (1 - 1 / ranks) * hidden_size * itemsize
