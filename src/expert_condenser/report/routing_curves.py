"""Curves of a simulated routing: imbalance and traffic over the number of ranks, one panel per number of experts."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from expert_condenser.files import replacing
from expert_condenser.planning.routing import Row, Simulation

_NAMES = {
    "sft": "plain fine-tuning",
    "condensers_replicated": "condensers replicated",
    "condensers_on_owners": "condensers on their owners",
    "pruned_tail": "least used experts pruned",
}
_STYLES = ("-o", "-s", "--^", ":D")


def plot_routing(simulation: Simulation, path: Path) -> None:
    """Write an SVG, the same bytes for the same numbers."""
    numbers = simulation.scenario.experts
    with matplotlib.rc_context({"svg.hashsalt": "condenser", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.2 * len(numbers), 5.6), layout="constrained")
        axes = figure.subplots(2, len(numbers), sharex=True, sharey="row", squeeze=False)
        for column, experts in enumerate(numbers):
            rows = [row for row in simulation.rows if row.experts == experts]
            _curves(axes[0, column], rows, "imbalance")
            _curves(axes[1, column], rows, "bytes_per_token", 1 / 1000)
            axes[0, column].set_yscale("log", base=2)  # a condenser on its owner grows with the ranks
            axes[0, column].set_title(f"{experts} experts", fontsize=10)
            axes[1, column].set_xlabel("ranks")
        axes[0, 0].set_ylabel("busiest rank / mean")
        axes[1, 0].set_ylabel("kB per token and layer, forward")
        axes[0, 0].legend(fontsize=7)
        with replacing(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})


def _curves(axis: Any, rows: list[Row], name: str, factor: float = 1.0) -> None:
    for case, style in zip(_NAMES, _STYLES, strict=True):
        own = [row for row in rows if row.case == case]
        if own:
            values = [factor * getattr(row, name) for row in own]
            axis.plot([row.ranks for row in own], values, style, markersize=3, linewidth=1, label=_NAMES[case])
    axis.set_xscale("log", base=2)
    axis.grid(alpha=0.3)
