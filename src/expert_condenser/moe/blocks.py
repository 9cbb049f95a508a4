"""Train some blocks of a linear layer's weight and no other: they are parameters of their own, `(N, l, l)`.

The weight is frozen, whole, and every forward writes the blocks into it, so that it is always the current one: a saved
model is a stock checkpoint. As `slices` does for experts; the optimizer's state is that of the blocks.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expert_condenser.moe.slices import fused_weight

BLOCKS = "trained_blocks"
Place = tuple[int, int]
"""Row and column of a block, in blocks."""


def block_view(weight: Float[Tensor, "O I"], size: int) -> Float[Tensor, "A B l l"]:
    """The weight as blocks of `size` by `size`, without a copy; both sides are multiples of it."""
    rows, columns = (side // size for side in weight.shape)
    return weight.view(rows, size, columns, size).transpose(1, 2)


class WriteBlocks(torch.autograd.Function):
    """The weight with the blocks in it; the gradient is that of the blocks."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, weight: Tensor, places: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(places)
        ctx.size = blocks.shape[-1]
        block_view(weight.data, ctx.size)[tuple(places.T)] = blocks.to(weight.dtype)
        return weight.data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        (places,) = ctx.saved_tensors
        return block_view(gradients[0].contiguous(), ctx.size)[tuple(places.T)], None, None


class BlockLinear(nn.Module):
    """Mixed into a linear layer's class: reading the weight gives the one with the blocks."""

    block_places: Int[Tensor, "N 2"]

    @property
    def weight(self) -> Tensor:
        """The weight as it acts."""
        # `get_parameter` would read this property instead of the weight itself.
        own = fused_weight(self, "weight")
        return WriteBlocks.apply(self.get_parameter(BLOCKS), own, self.block_places)  # type: ignore[no-untyped-call]

    def write_back(self) -> None:
        """Write the blocks into the weight, outside of a forward."""
        with torch.no_grad():
            _ = self.weight

    def read_again(self) -> None:
        """Take the blocks from the weight, after a load."""
        with torch.no_grad():
            blocks = self.get_parameter(BLOCKS)
            blocks.copy_(block_view(fused_weight(self, "weight"), blocks.shape[-1])[tuple(self.block_places.T)])


def train_blocks(linear: Any, places: Sequence[Place], size: int) -> None:
    """Freeze a linear layer but for the blocks at `places`, in place."""
    linear.requires_grad_(False)
    if not places:
        return
    weight = linear.weight
    chosen = torch.tensor(sorted(places), dtype=torch.int64, device=weight.device)
    blocks = block_view(weight.detach(), size)[tuple(chosen.T)].clone()
    linear.__class__ = _block_class(linear.__class__)
    linear.register_buffer("block_places", chosen, persistent=False)
    linear.register_parameter(BLOCKS, nn.Parameter(blocks))
    linear.register_state_dict_pre_hook(lambda module, prefix, keep_vars: module.write_back())
    linear.register_state_dict_post_hook(_drop_blocks)
    linear.register_load_state_dict_pre_hook(lambda module, *_: module.write_back())  # a load may be of other weights
    linear.register_load_state_dict_post_hook(_reread_blocks)


def places_of(linear: Any) -> list[Place]:
    """Which blocks of a linear layer train; none where it is a plain one."""
    return [tuple(place) for place in linear.block_places.tolist()] if isinstance(linear, BlockLinear) else []


@cache
def _block_class(linear_class: Any) -> Any:
    return type(f"Block{linear_class.__name__}", (BlockLinear, linear_class), {"base_class": linear_class})


def _drop_blocks(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del state[f"{prefix}{BLOCKS}"]


def _reread_blocks(module: Any, keys: Any) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.rpartition(".")[2] != BLOCKS]
    module.read_again()
