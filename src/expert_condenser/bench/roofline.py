"""The rate that the machine reaches on the same products, without anything around them."""

from collections.abc import Callable

import torch

from expert_condenser.bench.measure import Step
from expert_condenser.bench.shapes import Shape
from expert_condenser.sorted_experts import compute_dtype


def dense_products(shape: Shape, device: str, dtype: torch.dtype) -> Step:
    """The FLOPs of one layer's experts, forward and backward, as six large products, one per weight and pass."""
    return _products(shape, [shape.tokens * shape.top_k], device, dtype)


def grouped_products(shape: Shape, device: str, dtype: torch.dtype) -> Step:
    """The same FLOPs in products of one expert's share of the tokens each."""
    rows, rest = divmod(shape.tokens * shape.top_k, shape.experts)
    return _products(shape, [rows + (i < rest) for i in range(shape.experts)], device, dtype)


def _products(shape: Shape, groups: list[int], device: str, dtype: torch.dtype) -> Callable[[], None]:
    """`x W^T`, `g W`, `g^T x` of both projections and every group, into memory that exists already."""
    kind = compute_dtype(torch.empty(0, dtype=dtype, device=device))

    def matrix(*size: int) -> torch.Tensor:
        return torch.rand(size, device=device, dtype=kind)

    rows = max(groups)
    sizes = [(shape.hidden, 2 * shape.intermediate), (shape.intermediate, shape.hidden)]
    inputs = [(matrix(rows, wide), matrix(out, wide), matrix(rows, out)) for wide, out in sizes]
    results = [(matrix(rows, out), matrix(rows, wide), matrix(out, wide)) for wide, out in sizes]

    def run() -> None:
        for count in groups:
            for (x, weight, gradient), (forward, of_x, of_weight) in zip(inputs, results, strict=True):
                torch.mm(x[:count], weight.T, out=forward[:count])
                torch.mm(gradient[:count], weight, out=of_x[:count])
                torch.mm(gradient[:count].T, x[:count], out=of_weight)

    return run
