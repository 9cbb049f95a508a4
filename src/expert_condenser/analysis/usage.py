"""How often every expert is chosen, and with which weight: activation rates and long tails (paper, Fig. 3 and 9).

    rate_i = selections of i / (T K)          the long tail is the rates of a layer, sorted

Selections are hard ones, on tokens that are not padding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float64, Num
from torch import Tensor

from expert_condenser.analysis.subjects import condensers_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.functional.concentration import dead_share, diversity, entropy, gini, top_share
from expert_condenser.moe.layers import decoder_depth, moe_layers
from expert_condenser.moe.usage import measure_usage


@dataclass(frozen=True)
class ExpertUsage:
    """The usage of one model on one set of tokens."""

    name: str
    layers: tuple[int, ...]
    """Depths of the MoE layers among all layers of the decoder."""
    top_k: int
    counts: Num[Tensor, "L E"]
    gate_mass: Float64[Tensor, "L E"] | None = None
    """Sums of gate weights; None where they were not recorded."""
    condensers: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """`{layer index: expert ids}`."""
    task: str | None = None

    @property
    def rates(self) -> Float64[Tensor, "L E"]:
        """Every expert's share of its layer's selections."""
        counts = self.counts.double()
        return counts / counts.sum(dim=1, keepdim=True)

    @property
    def tails(self) -> Float64[Tensor, "L E"]:
        """The rates of every layer, the largest first."""
        return self.rates.sort(dim=1, descending=True).values

    def statistics(self) -> dict[str, Float64[Tensor, " L"]]:
        """Per layer: Gini index, entropy (nats), diversity exp(H)/E, share of the K busiest, share of the unused."""
        counts = self.counts
        return {
            "gini": gini(counts),
            "entropy": entropy(counts),
            "diversity": diversity(counts),
            "top_share": top_share(counts, self.top_k),
            "dead_share": dead_share(counts),
        }

    def content(self) -> dict[str, Any]:
        """As JSON, in the layout of the usage records published with ESFT; `usage_files.read_usage` reads it."""
        tokens = self.counts[0].sum().item() / self.top_k
        return {
            "format_version": 1,
            "model": self.name,
            "task": self.task,
            "layers": list(self.layers),
            "num_experts": self.counts.shape[1],
            "top_k": self.top_k,
            "tokens_per_layer": tokens,
            "selection_counts": self.counts.tolist(),
            "top_k_gate_mass": None if self.gate_mass is None else self.gate_mass.tolist(),
            "condensers": {str(layer): list(ids) for layer, ids in self.condensers.items()},
        }


def usage_of(
    name: str,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Tokens],
    *,
    task: str | None = None,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda rows: None,
) -> ExpertUsage:
    """Count one model's choices on rows; `advance` is called with the number of rows of every batch."""
    layers = moe_layers(model)
    found = measure_usage(model, tokenizer, [row.ids for row in rows], batch_size=batch_size, advance=advance)
    depths = tuple(decoder_depth(layer) for layer in layers)
    return ExpertUsage(name, depths, layers[0].top_k, *found, condensers=condensers_of(model), task=task)
