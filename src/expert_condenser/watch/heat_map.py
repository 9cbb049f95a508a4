"""Layer x expert as characters: a bar for each expert, of one scale at all times, so that two moments can be compared.

share of an expert times E      1 is an even share
bias                            against the largest absolute bias of the model
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

BARS = "▁▂▃▄▅▆▇█"
UNUSED = "·"
EDGES = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
"""Where a bar gets higher, in even shares."""
USAGE_SCALE = f"{UNUSED} unused  {BARS[0]} < 1/8  {BARS[4]} 1 to 1.5  {BARS[7]} > 4 even shares"


@dataclass(frozen=True)
class Row:
    """One layer, or several that lie next to each other where there is no room for all."""

    label: str
    levels: Sequence[int]
    """-1 for an unused expert, else an index of `BARS`."""
    marked: Sequence[bool]
    """Where a condenser is."""


def even_shares(counts: Num[Tensor, "L E"]) -> Float[Tensor, "L E"]:
    """Every expert's share of its layer's selections, times E; zero in a layer without any."""
    table = counts.double()
    return (table * table.shape[1] / table.sum(1, keepdim=True).clamp(min=1)).float()


def usage_levels(shares: Float[Tensor, "L E"]) -> list[list[int]]:
    """The bar of every expert."""
    found = torch.bucketize(shares, torch.tensor(EDGES), right=True)
    return torch.where(shares > 0, found, -1).tolist()


def bias_levels(bias: Float[Tensor, "L E"]) -> list[list[int]]:
    """The bar of every expert's bias, from minus the largest to plus it."""
    clean = bias.float().nan_to_num()
    largest = clean.abs().max().clamp(min=1e-12)
    return ((clean / largest + 1) / 2 * len(BARS)).long().clamp(max=len(BARS) - 1).tolist()


def bias_scale(bias: Float[Tensor, "L E"]) -> str:
    """What the bars of `bias_levels` stand for."""
    largest = float(bias.float().nan_to_num().abs().max())
    return f"{BARS[0]} bias {-largest:+.3g}  {BARS[4]} 0  {BARS[7]} {largest:+.3g}"


def pooled(table: Float[Tensor, "L E"], rows: int, columns: int) -> tuple[Float[Tensor, "l e"], int, int]:
    """Means over neighbours, so that the table has at most so many rows and columns; with how many are pooled."""
    down, across = -(-table.shape[0] // max(1, rows)), -(-table.shape[1] // max(1, columns))
    table = torch.stack([part.mean(0) for part in torch.split(table, down)])
    return torch.stack([part.mean(1) for part in torch.split(table, across, dim=1)], dim=1), down, across


def rows_of(
    levels: Sequence[Sequence[int]], condensers: Mapping[int, Sequence[int]], down: int, across: int
) -> list[Row]:
    """The rows, with the condensers of all layers and experts that a cell stands for marked."""
    found = []
    for index, row in enumerate(levels):
        layers = range(index * down, (index + 1) * down)
        here = {expert // across for layer in layers for expert in condensers.get(layer, ())}
        label = str(layers[0]) if down == 1 else f"{layers[0]}-{layers[-1]}"
        found.append(Row(label, row, [column in here for column in range(len(row))]))
    return found
