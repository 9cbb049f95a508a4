"""Experts that compute nothing and take the memory that the real ones take: `sorted_mm`, and stock `grouped_mm`.

Who chose whom is not known without data; every expert is given an equal share of the tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.integrations import moe as stock
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from expert_condenser.kernels.buffers import scratch, scratch_apart
from expert_condenser.kernels.sorted_experts import compute_dtype
from expert_condenser.moe.experts import NAME, RECOMPUTE, is_exact_for, sorted_mm_experts_forward
from expert_condenser.moe.slices import SLICES, SlicedExperts, fused_weight

_OTHERS = ("eager", "deepgemm", "sonicmoe")


def planned_implementation(name: str | None, device: str) -> str:
    """The implementation whose memory is planned: what a device runs by default, and one like it for some others.

    `eager` chooses rows by their values, and the kernels of other packages have no shapes without their package.
    """
    if device != "cpu" and name in (None, NAME, RECOMPUTE):
        return "grouped_mm"
    return "grouped_mm" if name in _OTHERS else name or NAME


@contextmanager
def sized_experts() -> Iterator[Callable[[], int]]:
    """Within it, our implementations and `grouped_mm` run on tensors that have a shape and no data.

    Yields a count of the bytes that the experts keep for their next call.
    """
    ours = {NAME: _forward(False), RECOMPUTE: _forward(True)}
    kept = {name: ALL_EXPERTS_FUNCTIONS[name] for name in ours}
    for name, function in ours.items():
        ALL_EXPERTS_FUNCTIONS.register(name, function)
    try:
        # torch has the shapes of its grouped product in bfloat16 only; transformers' own has those of all dtypes.
        with patch.object(stock, "_can_use_grouped_mm", lambda *_: False), scratch_apart() as kept_bytes:
            yield kept_bytes
    finally:
        for name, function in kept.items():
            ALL_EXPERTS_FUNCTIONS.register(name, function)


def _forward(recompute: bool) -> Any:
    def forward(module: Any, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        if not is_exact_for(module):
            return sorted_mm_experts_forward(module, hidden, indices, weights)
        fused, trained = _weights(module)
        width = fused[0].shape[2 if module.is_transposed else 1]
        keeps = torch.is_grad_enabled() and not recompute
        output: Tensor = SizedExperts.apply(hidden, weights, indices, (len(fused[0]), width, keeps), *trained)  # type: ignore[no-untyped-call]
        return output

    return forward


def _weights(module: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The fused weights of the experts, the projection up first, and what trains of them."""
    names = ["gate_up_proj" if module.has_gate else "up_proj", "down_proj"]
    names += [f"{name}_bias" for name in names] if module.has_bias else []
    if isinstance(module, SlicedExperts):
        return [fused_weight(module, name) for name in names], [getattr(module, SLICES)[name] for name in names]
    fused = [getattr(module, name) for name in names]
    return fused, fused


class SizedExperts(torch.autograd.Function):
    """The memory of `kernels.sorted_experts.SortedExperts`, in its order."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, hidden: Tensor, weights: Tensor, indices: Tensor, sizes: tuple[int, int, bool], *trained: Tensor
    ) -> Tensor:
        experts, width, keeps = ctx.sizes = sizes
        dtype, pairs = compute_dtype(trained[0]), indices.numel()
        sort = _sorted(hidden, pairs)
        size = (pairs, width)
        projected = trained[0].new_empty(size) if keeps else scratch(size, trained[0], "projected")
        inputs = hidden.to(dtype)
        rows = scratch((pairs, hidden.shape[-1]), inputs)
        _of_one_expert(rows, pairs // experts, width // 2)
        ctx.save_for_backward(hidden, weights, indices, projected if keeps else None, *trained)
        del sort
        return torch.empty_like(inputs).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        hidden, weights, indices, projected, *trained = ctx.saved_tensors
        experts, width, _ = ctx.sizes
        dtype, pairs = compute_dtype(trained[0]), indices.numel()
        sort = _sorted(hidden, pairs)
        needs = ctx.needs_input_grad[4:]
        made = [torch.empty_like(value) if need else None for value, need in zip(trained, needs, strict=True)]
        inputs, gradient = hidden.to(dtype), gradients[0].to(dtype)
        if projected is None:
            projected = scratch((pairs, width), trained[0], "projected")
        gates = weights.new_empty((pairs, 1), dtype=dtype)
        of_gates = torch.empty_like(gates)
        rows = scratch((pairs, hidden.shape[-1]), gradient)
        _of_one_expert(rows, pairs // experts, 3 * width + hidden.shape[-1])
        of_hidden = torch.empty_like(inputs).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        del sort, gates
        return of_hidden, of_gates.view(weights.shape).to(weights.dtype), None, None, *made


def _sorted(hidden: Tensor, pairs: int) -> list[Tensor]:
    """Order, place and tokens of the pairs."""
    return [torch.empty(pairs, dtype=torch.int64, device=hidden.device) for _ in range(3)]


def _of_one_expert(rows: Tensor, tokens: int, width: int) -> None:
    """What is live while one expert's tokens are computed, and then no more."""
    rows.new_empty((tokens, width))
