"""Read the routers' counters once per optimizer step: summed over processes, then reset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float, Int, Num
from torch import Tensor

from expert_condenser.errors import FailedRunError
from expert_condenser.functional.concentration import dead_share, diversity, gini
from expert_condenser.moe.attachment import Attachment
from expert_condenser.moe.counting import Counter, sum_dtype
from expert_condenser.moe.layers import MoELayer
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

    Counts travel as float64, which is exact below 2^53 tokens; on the CPU where the first layer's device has none.
    """
    device = meeting_device(attachment.routers[0].counter.counts.device)
    stacked = torch.stack([_row(router.counter, device) for router in attachment.routers])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked /= sharing_processes(attachment)
    attachment.reset(detailed=attachment.watch.detailed)
    counts, mass, gate_mass, (changed, tokens) = _split(stacked.cpu(), attachment.routers[0].num_experts)
    return StepUsage(counts.round().long(), mass, gate_mass, changed / tokens)


def sharing_processes(attachment: Attachment) -> int:
    """How many processes see each token: those of a tensor-parallel group, in a model that transformers has split."""
    decoder: Any = None if attachment.decoder is None else attachment.decoder()
    config = getattr(getattr(decoder, "config", None), "distributed_config", None)
    return 1 if config is None else int(config.tp_size)


def check_counted(usage: StepUsage, layers: Sequence[MoELayer], step: int) -> None:
    """Raise `FailedRunError` where a layer counted no token in an optimizer step: its routing is not the method's.

    There is no good reason for it: no known family skips an MoE layer, and routers of image tokens or with a
    table of experts per token id are not among `layers`.
    """
    silent = [layer.name for layer, counts in zip(layers, usage.counts, strict=True) if not counts.any()]
    if silent:
        raise FailedRunError(
            f"every MoE layer sees tokens in every step; at step {step}, {len(silent)} of {len(layers)} counted none "
            f"({', '.join(silent[:3])}). Either the model is trained in eval mode; or its decoder is not called as a "
            "module (`decoder(...)`, not `decoder.forward(...)`); or another library replaced routers or their forward "
            "after attach; or all tokens of the step are padding."
        )


def meeting_device(device: torch.device) -> torch.device:
    """Where the counters of all layers meet: the device of the first, or the CPU where that one has no float64."""
    return device if sum_dtype(device) == torch.float64 else torch.device("cpu")


def _row(counter: Counter, device: torch.device) -> Num[Tensor, " columns"]:
    scalars = torch.stack([counter.changed, counter.tokens])
    # Moved first, and cast there: on the device that a layer computes on there may be no float64.
    return torch.cat([part.to(device).double() for part in (counter.counts, counter.mass, counter.gate_mass, scalars)])


def _split(stacked: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    counts, mass, gate_mass, scalars = torch.split(stacked, [num_experts, num_experts, num_experts, 2], dim=1)
    return counts, mass, gate_mass, (scalars[:, 0], scalars[:, 1])
