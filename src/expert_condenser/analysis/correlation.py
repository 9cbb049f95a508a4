"""How alike two experts are: the Pearson correlation of their outputs on the same tokens (paper, Fig. 8, App. M).

    r_ij = corr over (token, dimension) of E_i(x) and E_j(x)          (*ours*: all E experts on all tokens, unweighed)

A copy of an expert has 1 with it, in whatever scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from expert_condenser.analysis.calls import calls_on
from expert_condenser.data.tokens import Tokens
from expert_condenser.moe.experts_calls import all_outputs
from expert_condenser.moe.layers import decoder_depth, moe_layers

AT_ONCE = 256
"""Tokens whose E outputs are in memory together."""


@dataclass(frozen=True)
class Correlation:
    """Of the experts of one model."""

    name: str
    layers: tuple[int, ...]
    matrix: Float64[Tensor, "L E E"]
    condensers: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def mean_of(self, experts: Mapping[int, Sequence[int]]) -> Float64[Tensor, " L"]:
        """Per layer, the mean correlation of these experts with all that are not among them; NaN where there are none.

        Where they are condensers, this is the paper's figure.
        """
        found = []
        for index, matrix in enumerate(self.matrix):
            ids = list(experts.get(index, ()))
            rest = [i for i in range(len(matrix)) if i not in ids]
            found.append(matrix[ids][:, rest].mean())  # of nothing: NaN
        return torch.stack(found)

    def mean(self) -> Float64[Tensor, " L"]:
        """Per layer, the mean over all pairs of different experts."""
        size = self.matrix.shape[1]
        return (self.matrix.sum((1, 2)) - self.matrix.diagonal(dim1=1, dim2=2).sum(1)) / (size * (size - 1))


@torch.no_grad()
def correlation_of(
    name: str,
    model: Any,
    rows: Sequence[Tokens],
    *,
    tokens: int = 1024,
    condensers: Mapping[int, Sequence[int]] | None = None,
) -> Correlation:
    """Ask every expert for the first `tokens` tokens of the rows, on the inputs that the layer has in the model."""
    layers = moe_layers(model)
    calls = calls_on(model, rows, tokens)
    matrices = []
    for layer, call in zip(layers, calls, strict=True):
        moments = _Moments(layer.num_experts)
        for hidden in torch.split(call.hidden, AT_ONCE):
            moments.add(all_outputs(layer, hidden).flatten(1))
        matrices.append(moments.correlation())
    return Correlation(name, tuple(map(decoder_depth, layers)), torch.stack(matrices), condensers or {})


class _Moments:
    """Sums from which a correlation matrix follows, in float64."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sums = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, values: Float[Tensor, "E N"]) -> None:
        exact = values.cpu().double()
        self.count += exact.shape[1]
        self.sums += exact.sum(1)
        self.products += exact @ exact.T

    def correlation(self) -> Float64[Tensor, "E E"]:
        """NaN where an expert's output never changes."""
        means = self.sums / self.count
        covariance = self.products / self.count - means[:, None] * means
        spread = covariance.diagonal().clamp(min=0).sqrt()
        return covariance / (spread[:, None] * spread)
