"""What real routing would do on machines that are not here: `condenser simulate`.

Every number is arithmetic on counted choices. Nothing is timed: how long a step takes is a question of the network and
of the kernels too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from expert_condenser.errors import PlanError
from expert_condenser.functional.placement import (
    bytes_per_token,
    expert_loads,
    imbalance,
    rank_loads,
    resampled,
)
from expert_condenser.planning.usage_files import UsageFile

FORMAT_VERSION = 1
SFT, REPLICATED, OWNED, PRUNED = "sft", "condensers_replicated", "condensers_on_owners", "pruned_tail"


@dataclass(frozen=True)
class Scenario:
    """What is simulated."""

    experts: tuple[int, ...] = (64, 128, 256, 512)
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    top_k: int | None = None
    """Slots of a token; None is what the files say."""
    num_condensers: int = 1
    pruned: float = 0.25
    """The share of the experts that is removed, the least used ones of every layer."""
    hidden_size: int = 2048
    itemsize: int = 2
    """Bytes of a number that is sent."""
    orders: int = 20
    """Random orders of the experts that loads are means over: which experts share a rank is chance."""
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One case on one machine, over all layers of all files."""

    experts: int
    ranks: int
    expert_ranks: int
    """Ranks that share one set of experts, E at most; more ranks are more such groups."""
    case: str
    imbalance: float
    """The busiest rank over the mean, a mean over layers and orders."""
    imbalance_worst_layer: float
    routed_slots: int
    """Slots of a token that are sent to where an expert is."""
    bytes_per_token: float
    """Of one layer, forward: there and back."""
    traffic: float
    """Of that of plain fine-tuning."""
    experts_held: float
    """Experts whose weights a rank holds, on average."""


@dataclass(frozen=True)
class Simulation:
    """Rows, and what they are of."""

    files: list[str]
    scenario: Scenario
    top_k: int
    tail_share: dict[int, float]
    """By the number of experts, the share of all choices that the pruned ones had."""
    rows: list[Row] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def simulate(files: Sequence[UsageFile], scenario: Scenario) -> Simulation:
    """Every case for every number of experts and ranks. Raises `PlanError` on a scenario that is none."""
    top_k = _top_k(files, scenario)
    generator = torch.Generator().manual_seed(scenario.seed)
    found = Simulation([file.name for file in files], scenario, top_k, {})
    for experts in scenario.experts:
        curves = torch.cat([resampled(file.counts, experts) for file in files])
        orders = torch.stack([torch.randperm(experts, generator=generator) for _ in range(scenario.orders)])
        kept = experts - round(scenario.pruned * experts)
        found.tail_share[experts] = curves[:, : experts - kept].sum(-1).mean().item()
        for ranks in scenario.ranks:
            found.rows.extend(_rows(curves, orders, ranks, top_k, kept, scenario))
    return found


def _rows(
    curves: Float64[Tensor, "L E"],
    orders: Int[Tensor, "O E"],
    ranks: int,
    top_k: int,
    kept: int,
    scenario: Scenario,
) -> list[Row]:
    """All cases on one machine; `curves` ascend, so that the least used experts come first."""
    experts = curves.shape[-1]
    shares = curves[:, orders].transpose(0, 1)  # (O, L, E)
    left = curves[:, experts - kept :]
    left = (left / left.sum(-1, keepdim=True))[:, orders[orders >= experts - kept].view(-1, kept) - (experts - kept)]
    # The least used experts of a layer, which is where the paper's rule, `lowest_bias`, finds condensers.
    chosen = orders.argsort(-1)[:, None, : scenario.num_condensers].expand(-1, len(curves), -1)
    none = chosen[..., :0]
    cases = {
        SFT: (shares, none, False),
        REPLICATED: (shares, chosen, True),
        OWNED: (shares, chosen, False),
        PRUNED: (left.transpose(0, 1), none, False),
    }
    if scenario.num_condensers == 0:
        cases = {name: case for name, case in cases.items() if name in (SFT, PRUNED)}
    return [_row(name, case, experts, ranks, top_k, scenario) for name, case in cases.items()]


def _row(
    name: str,
    case: tuple[Float64[Tensor, "O L M"], Int[Tensor, "O L R"], bool],
    experts: int,
    ranks: int,
    top_k: int,
    scenario: Scenario,
) -> Row:
    shares, condensers, replicated = case
    held, copies = shares.shape[-1], condensers.shape[-1] if replicated else 0
    group = min(ranks, held)
    loads = rank_loads(expert_loads(shares, top_k, condensers, ranks=group, replicated=replicated), group) + copies
    by_layer = imbalance(loads).mean(0)
    slots = top_k - copies
    sizes = {"hidden_size": scenario.hidden_size, "itemsize": scenario.itemsize}
    sent, plain = (bytes_per_token(k, n, **sizes) for k, n in ((slots, group), (top_k, min(ranks, experts))))
    return Row(
        experts=experts,
        ranks=ranks,
        expert_ranks=group,
        case=name,
        imbalance=by_layer.mean().item(),
        imbalance_worst_layer=by_layer.max().item(),
        routed_slots=slots,
        bytes_per_token=sent,
        traffic=sent / plain if plain else 0.0,
        experts_held=(held - copies) / group + copies,
    )


def _top_k(files: Sequence[UsageFile], scenario: Scenario) -> int:
    known = {file.top_k for file in files if file.top_k is not None}
    if scenario.top_k is None and len(known) != 1:
        raise PlanError(f"all tokens have the same number of slots; the files say {sorted(known)}; set --top_k")
    top_k = scenario.top_k or known.pop()
    if not 0 <= scenario.num_condensers < top_k <= min(scenario.experts):
        raise PlanError(
            f"R condensers are fewer than the K slots of a token, which are at most E; got R = "
            f"{scenario.num_condensers}, K = {top_k}, E from {min(scenario.experts)}"
        )
    if not 0 <= scenario.pruned < 1 or min(scenario.experts) * (1 - scenario.pruned) < top_k:
        raise PlanError(f"what is left of the experts must fill K = {top_k} slots; got pruned = {scenario.pruned}")
    return top_k
