"""`sorted_mm` for Llama 4, whose stock block computes every expert on every token.

    y(x) = shared(x) + sum_i E_i(s_i x)          s_i = 0 for experts that were not chosen, and E_i(0) = 0

So the sum is over the chosen experts alone: K of E rows per token. `load_model` runs the block so where it runs other
families by `sorted_mm`; output and the gradient of the input are the stock block's, weight gradients up to rounding.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expert_condenser.kernels.gating import Gate, SwiGlu
from expert_condenser.kernels.sorted_experts import sorted_experts
from expert_condenser.moe.experts import NAME, RECOMPUTE, is_silu, with_slices
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.handover import SCORES
from expert_condenser.moe.layers import family_name, moe_layers


class SparseExperts(nn.Module):
    """Mixed into the family's experts class: with `indices` a row goes through one expert."""

    recompute: bool

    def forward(self, hidden_states: Float[Tensor, "N D"], indices: Int[Tensor, " N"] | None = None) -> Any:
        """`E_i(x)` of every row; without indices the family's own forward."""
        if indices is None:
            return super().forward(hidden_states)
        gate = SwiGlu() if is_silu(self.act_fn) else Gate(_gated_by(self.act_fn))
        with torch.autocast(hidden_states.device.type, enabled=False):
            experts = with_slices(self, ["gate_up_proj", "down_proj"], gate, transposed=True)
            ones = torch.ones_like(hidden_states[:, :1])
            return sorted_experts(hidden_states, ones, indices[:, None], experts._replace(recompute=self.recompute))


class SparseBlock(nn.Module):
    """Mixed into the family's block class."""

    def forward(self, hidden_states: Tensor) -> Any:
        """`(output (T, D), router logits (T, E))`, as the family's block; where this is no CPU, that block itself."""
        if hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(hidden_states)
        hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
        block: Any = self
        scores, logits = block.router(hidden)
        slots = max(int((scores > 0).sum(dim=-1).max()), 1) if len(hidden) else 1
        # A chosen expert whose score rounds to 0 gets an input of 0, so another one of score 0 gives the same.
        weights, indices = scores.topk(slots, dim=-1)
        rows = (hidden[:, None] * weights[..., None]).flatten(0, 1)
        routed = block.experts(rows, indices.flatten())
        output = block.shared_expert(hidden)
        output.add_(routed.view(*indices.shape, -1).sum(dim=1))
        return output, logits


def run_sparsely(model: nn.Module, implementation: str | None) -> None:
    """Let Llama 4's blocks compute the chosen experts alone, in place, where the implementation is ours."""
    family = FAMILIES.get(family_name(model))
    if implementation not in (NAME, RECOMPUTE) or family is None or family.rule.handover is not SCORES:
        return
    for layer in moe_layers(model):
        block: Any = model.get_submodule(layer.block)
        experts: Any = layer.experts
        block.__class__ = _mixed(SparseBlock, block.__class__)
        experts.__class__ = _mixed(SparseExperts, experts.__class__)
        experts.recompute = implementation == RECOMPUTE


@cache
def _mixed(first: Any, family: Any) -> Any:
    return type(f"Sparse{family.__name__}", (first, family), {"base_class": family})


def _gated_by(act: Any) -> Any:
    def gated(up: Tensor) -> Tensor:
        gate, rest = up.chunk(2, dim=-1)
        product: Tensor = rest * act(gate)
        return product

    return gated
