"""Where a family keeps the bias of its own that corrects the choice, so that it can be written."""

from torch import Tensor, nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.layers import MoELayer

NAMES = ("e_score_correction_bias", "expert_bias")
"""What families call it."""
ROUNDED = frozenset(
    {
        *("afmoe", "kimi_linear", "laguna", "longcat_flash", "minimax_m2"),
        *("minimax_m3_vl", "minimax_m3_vl_text", "step3p7"),
    }
)
"""Families whose stock class loads it in the dtype of the weights; all others keep it in float32."""


def correction_of(model: nn.Module, layer: MoELayer) -> Tensor:
    """The tensor of a layer's correction bias, of `(E,)` values: in the router, below it, or in the block around it.

    Raises `UnsupportedModelError` where the family has none, or does not use it (`use_expert_bias`).
    """
    block = model.get_submodule(layer.block)
    tensors = [*block.named_parameters(), *block.named_buffers()]
    found = [tensor for name, tensor in tensors if name.rpartition(".")[2] in NAMES]
    if layer.rule.correction is None or not found:
        raise UnsupportedModelError(f"{layer.name} has no correction bias of its own")
    return found[0]
