"""Where figures are drawn: panels side by side, saved as SVG and PNG, the same files from the same numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.figure import Figure

LABEL_WIDTH = 32
"""Letters in a line of the legend."""
_STYLE = {"svg.hashsalt": "analysis", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}


@contextmanager
def panels(stem: Path, titles: Sequence[str], *, columns: int = 3, height: float = 3.2) -> Iterator[list[Any]]:
    """A panel for each title; at the end `STEM.svg` and `STEM.png` are there, with one legend for all of them."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    with matplotlib.rc_context({**_STYLE, "axes.spines.right": False}):
        # No pyplot: that would choose a backend for the process.
        figure = Figure(figsize=(3.6 * columns + 1.6, height * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(title, loc="left", fontsize=9)
            axis.grid(color="0.92")
        for axis in axes[len(titles) :]:
            axis.remove()
        yield axes[: len(titles)]
        _legend(figure, axes[: len(titles)])
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        figure.savefig(stem.with_suffix(".png"), dpi=110, metadata={"Software": None})


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """Each label once, whichever panels have it."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        labels = [fill(label, LABEL_WIDTH) for label in found]  # wide ones would leave no room for the panels
        figure.legend(found.values(), labels, loc="outside right upper", fontsize=8)
