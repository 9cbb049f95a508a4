"""The rate that the machine reaches on the same products, without anything around them."""

from collections.abc import Callable

import torch

from expert_condenser.bench.measure import Step
from expert_condenser.bench.shapes import Shape
from expert_condenser.kernels.sorted_experts import compute_dtype


def dense_products(shape: Shape, device: str, dtype: torch.dtype) -> Step:
    """The FLOPs of one layer's experts, forward and backward, as large products, one per weight and pass."""
    return _products(shape, [shape.tokens * shape.top_k], device, dtype)


def grouped_products(shape: Shape, device: str, dtype: torch.dtype) -> Step:
    """The same FLOPs, those of the routed experts in products of one expert's share of the tokens each."""
    rows, rest = divmod(shape.tokens * shape.top_k, shape.experts)
    return _products(shape, [rows + (i < rest) for i in range(shape.experts)], device, dtype)


def _products(shape: Shape, groups: list[int], device: str, dtype: torch.dtype) -> Callable[[], None]:
    """Of routed and shared experts, for every group of tokens."""
    kind = compute_dtype(torch.empty(0, dtype=dtype, device=device))
    widths = [(shape.intermediate, groups), *([(shape.shared, [shape.tokens])] if shape.shared else [])]
    works = [
        _of_weight(wide, out, of_width, device, kind)
        for width, of_width in widths
        for wide, out in ((shape.hidden, 2 * width), (width, shape.hidden))
    ]

    def run() -> None:
        for work in works:
            work()

    return run


def _of_weight(wide: int, out: int, groups: list[int], device: str, dtype: torch.dtype) -> Callable[[], None]:
    """`x W^T`, `g W` and `g^T x` for every group, into memory that exists already."""

    def matrix(*size: int) -> torch.Tensor:
        return torch.rand(size, device=device, dtype=dtype)

    rows = max(groups)
    x, weight, gradient = matrix(rows, wide), matrix(out, wide), matrix(rows, out)
    forward, of_x, of_weight = matrix(rows, out), matrix(rows, wide), matrix(out, wide)

    def run() -> None:
        for count in groups:
            torch.mm(x[:count], weight.T, out=forward[:count])
            torch.mm(gradient[:count], weight, out=of_x[:count])
            torch.mm(gradient[:count].T, x[:count], out=of_weight)

    return run
