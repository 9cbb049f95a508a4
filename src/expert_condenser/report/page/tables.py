"""A table as a page shows it, and the same of every figure's curves: what is drawn can be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expert_condenser.comparison.tables import tables

Curve = tuple[Sequence[int | float], Sequence[int | float | None]]
"""The x and the y of a curve, None where there is no value."""
ROWS = 40
"""Of the table of a figure's curves at most; longer ones are thinned, which its caption says."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row is its heading."""

    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def comparison_tables(report: dict[str, Any], focus: Sequence[str]) -> tuple[list[Table], list[Table]]:
    """The tables of `compare_both`'s report: those of the metrics that the answer is of, and the others."""
    of_metric: dict[str, list[Table]] = {row["metric"]: [] for row in report["rows"]}
    for title, cells in tables(report):
        metric = max((name for name in of_metric if title.startswith(f"{name}: ")), key=len)
        of_metric[metric].append(Table(title, *_verdict_first(*cells)))
    first = [table for metric in focus for table in of_metric[metric]]
    return first, [table for metric, own in of_metric.items() if metric not in focus for table in own]


def _verdict_first(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The last column after the first: a narrow screen shows what follows from the others without scrolling."""
    one, *others = [[row[0], row[-1], *row[1:-1]] for row in (titles, *rows)]
    return one, others


def table_of_curves(caption: str, x: str, curves: Mapping[str, Curve]) -> Table:
    """A row for every x that any curve has, a column for every curve, with the ends kept where rows are left out."""
    every = sorted({value for xs, _ in curves.values() for value in xs})
    shown = every if len(every) <= ROWS else [every[at * (len(every) - 1) // (ROWS - 1)] for at in range(ROWS)]
    found = {name: dict(zip(xs, ys, strict=True)) for name, (xs, ys) in curves.items()}
    rows = [[f"{value:g}", *(_number(of.get(value)) for of in found.values())] for value in shown]
    left = "" if len(shown) == len(every) else f", {len(shown)} of {len(every)} rows"
    return Table(caption + left, [x, *curves], rows)


def _number(value: int | float | None) -> str:
    return "" if value is None else f"{value:.4g}"
