"""How llama.cpp chooses and weighs experts (`build_moe_ffn` of its `llama-graph.cpp`), on torch tensors.

Written from what it computes, to check a file without llama.cpp: the functions are those of `expert_gating_func`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3
LEAST_SUM = 6.103515625e-5
"""What llama.cpp raises the sum to that weights are divided by."""
ALWAYS_DIVIDES = ("minimax-m2",)
"""Architectures that divide whatever the file says."""


class LlamaCppRouting(NamedTuple):
    """What a file says about the routing of one layer."""

    func: int
    slots: int
    divides: bool
    scale: float
    groups: int
    groups_kept: int
    bias: Float[Tensor, " E"]

    @classmethod
    def read(cls, numbers: Mapping[str, Any], bias: Float[Tensor, " E"]) -> "LlamaCppRouting":
        """The routing of a layer with this `exp_probs_b`; `numbers` are the file's fields, by their whole names."""
        architecture = numbers["general.architecture"]
        get = {name.removeprefix(f"{architecture}."): value for name, value in numbers.items()}.get
        return cls(
            func=int(get("expert_gating_func", SIGMOID)),
            slots=int(get("expert_used_count", 0)),
            divides=bool(get("expert_weights_norm", False)) or architecture in ALWAYS_DIVIDES,
            scale=float(get("expert_weights_scale", 1.0)),
            groups=int(get("expert_group_count", 0)),
            groups_kept=int(get("expert_group_used_count", 0)),
            bias=bias.float(),
        )

    def scores(self, logits: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """What is weighed, and ranked with the bias added."""
        logits = logits.float()
        if self.func == SOFTMAX:
            return torch.softmax(logits, dim=-1)
        return torch.sigmoid(logits) if self.func == SIGMOID else logits

    def ranks(self, logits: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Biased scores, those of the groups that a token does not choose from at -infinity."""
        ranks = self.scores(logits) + self.bias
        if self.groups <= 1:
            return ranks
        groups = ranks.view(len(ranks), self.groups, -1)
        kept = groups.topk(2, dim=-1).values.sum(dim=-1).topk(self.groups_kept, dim=-1).indices
        mask = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter_(-1, kept, True)
        return groups.masked_fill(~mask[..., None], -torch.inf).view_as(ranks)

    def route(self, logits: Float[Tensor, "T E"]) -> tuple[Float[Tensor, "T S"], Int[Tensor, "T S"]]:
        """`(weights, indices)`: chosen with the bias, weighed without it."""
        indices = self.ranks(logits).topk(self.slots, dim=-1).indices
        weights = self.scores(logits).gather(-1, indices)
        if self.func == SOFTMAX_OF_CHOSEN:
            weights = torch.softmax(weights, dim=-1)
        if self.divides:
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=LEAST_SUM)
        return weights * self.scale, indices
