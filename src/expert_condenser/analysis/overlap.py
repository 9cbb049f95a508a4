"""Do two tasks, two languages or two methods use the same experts?

    common     sum_i min(p_i, q_i) of two usage distributions of a layer: 1 where they are equal, 0 where disjoint
    same_top   how many of the n busiest experts of one are among those of the other, as a share of n

n is the number of experts that half of the selections fall on in the first of the two (*ours*). By chance `same_top`
would be n / E.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.usage import ExpertUsage
from expert_condenser.analysis.usage_files import check_same_shape
from expert_condenser.functional.concentration import overlap


@dataclass(frozen=True)
class Overlap:
    """Of two usages, per layer."""

    first: str
    second: str
    common: Float64[Tensor, " L"]
    same_top: Float64[Tensor, " L"]
    by_chance: Float64[Tensor, " L"]
    """What `same_top` would be on average of two random sets of the same size."""


def overlaps(usages: Sequence[ExpertUsage]) -> list[Overlap]:
    """Every pair; raises `AnalysisError` where they are not of the same experts."""
    check_same_shape(list(usages))
    return [_overlap(a, b) for a, b in combinations(usages, 2)]


def _overlap(a: ExpertUsage, b: ExpertUsage) -> Overlap:
    num_experts = a.counts.shape[1]
    sizes = (a.tails.cumsum(1) < 0.5).sum(1) + 1
    same = [
        len(set(p.topk(n).indices.tolist()) & set(q.topk(n).indices.tolist())) / n
        for p, q, n in zip(a.rates, b.rates, sizes.tolist(), strict=True)
    ]
    common = overlap(a.counts, b.counts)
    return Overlap(a.name, b.name, common, torch.tensor(same, dtype=torch.float64), sizes.double() / num_experts)
