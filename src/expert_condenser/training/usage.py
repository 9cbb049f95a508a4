"""Read the routers' counters once per optimizer step: summed over processes, then reset."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Float, Int, Num
from torch import Tensor

from expert_condenser.functional.concentration import dead_share, diversity, gini
from expert_condenser.moe.attachment import Attachment
from expert_condenser.moe.counting import Counter
from expert_condenser.moe.router import PolicyRouter


@dataclass(frozen=True)
class StepUsage:
    """What the routers of all layers did in one optimizer step, over all micro-batches and processes."""

    counts: Int[Tensor, "L E"]
    mass: Float[Tensor, "L E"]
    gate_mass: Float[Tensor, "L E"]
    """Sum of the gate weights; zero unless the step was detailed."""
    changed: Float[Tensor, " L"]
    """Share of the tokens whose experts the bias changed; NaN unless the step was detailed."""

    def metrics(self, attachment: Attachment) -> dict[str, float]:
        """Means over layers: expert diversity exp(H)/E, Gini, dead share; detailed, also the gate share and churn."""
        numbers = {
            "expert_diversity": diversity(self.counts).mean().item(),
            "usage_gini": gini(self.counts).mean().item(),
            "dead_experts": dead_share(self.counts).mean().item(),
        }
        if not self.changed.isnan().any() and attachment.policy is not None:
            numbers["route_churn"] = self.changed.mean().item()
            numbers["condenser_gate_share"] = self._condenser_gate_share(attachment.routers)
        return numbers

    def _condenser_gate_share(self, routers: Sequence[PolicyRouter]) -> float:
        shares = [
            (mass[router.condenser_ids.to(mass.device)].sum() / mass.sum()).item()
            for mass, router in zip(self.gate_mass, routers, strict=True)
        ]
        return sum(shares) / len(shares)


def collect(attachment: Attachment) -> StepUsage:
    """Sum the counters over data-parallel processes with one all-reduce of a stacked matrix, then reset them.

    Counts travel as float64, which is exact below 2^53 tokens.
    """
    rows = [_row(router.counter) for router in attachment.routers]
    stacked = torch.stack([row.to(rows[0].device) for row in rows])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
    attachment.reset(detailed=attachment.watch.detailed)
    counts, mass, gate_mass, (changed, tokens) = _split(stacked.cpu(), attachment.routers[0].num_experts)
    return StepUsage(counts.round().long(), mass, gate_mass, changed / tokens)


def _row(counter: Counter) -> Num[Tensor, " columns"]:
    scalars = torch.stack([counter.changed.double(), counter.tokens.double()])
    return torch.cat([counter.counts.double(), counter.mass, counter.gate_mass, scalars])


def _split(stacked: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    counts, mass, gate_mass, scalars = torch.split(stacked, [num_experts, num_experts, num_experts, 2], dim=1)
    return counts, mass, gate_mass, (scalars[:, 0], scalars[:, 1])
