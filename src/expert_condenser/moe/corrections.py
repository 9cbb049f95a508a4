"""Where a family keeps the bias of its own that corrects the choice, so that it can be written."""

from typing import Any

from torch import Tensor, nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.own_types import stock_class

NAMES = ("e_score_correction_bias", "expert_bias")
"""What families call it."""


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


def keeps_correction_in_float32(family: str) -> bool:
    """Whether the family's class loads its correction bias in float32 whatever the dtype of the weights."""
    stock: Any = stock_class(family)
    kept = {*(stock._keep_in_fp32_modules or ()), *(stock._keep_in_fp32_modules_strict or ())}
    return any(part in kept for part in (*NAMES, "moe_statics"))
