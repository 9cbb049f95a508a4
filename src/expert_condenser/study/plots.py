"""A study as pictures: every seed a dot, every arm its mean and confidence interval; and the fronts over a grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_LABEL = {"points": "{}: exact match, %", "nats": "{}: nll, nats per token"}


def plot_arms(reports: Sequence[dict[str, Any]], metrics: Sequence[str], base: Mapping[str, float], path: Path) -> None:
    """A row of panels for every report (accuracy, nll), a panel for each metric; the dashed line is the base model.

    `base` has the base's scores by unit and metric: `points gsm8k`.
    """
    arms = list(reports[0]["arms"])
    rows, columns = len(reports), len(metrics)
    figure = Figure(figsize=(5.0 * columns + 1.5, (0.38 * len(arms) + 1.0) * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for line, report in zip(panels, reports, strict=True):
        for panel, metric in zip(line, metrics, strict=True):
            found = {row["arm"]: row for row in report["rows"] if row["metric"] == metric}
            _panel(panel, [found[arm] for arm in arms if arm in found])
            if (at := base.get(f"{report['unit']} {metric}")) is not None:
                panel.axvline(at, color="0.3", linestyle="--", linewidth=1)
            panel.set_yticks(range(len(arms)), arms)
            panel.set_xlabel(_LABEL[report["unit"]].format(metric))
            panel.grid(axis="x", color="0.9")
    panels[0][0].invert_yaxis()  # shared by all
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    for position, row in enumerate(rows):
        panel.plot(row["scores"], [position] * len(row["scores"]), "o", color="0.65", markersize=4, zorder=1)
        interval = row["mean_interval"]
        if interval is not None:
            panel.plot([interval["low"], interval["high"]], [position] * 2, color="C0", linewidth=2, zorder=2)
        panel.plot(row["mean"], position, "D", color="C0", markersize=5, zorder=3)


def plot_fronts(fronts: dict[str, Any], path: Path) -> None:
    """Every arm a line through its points, in the order of the grid; the shaded area is what the baseline dominates."""
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    panel = figure.subplots()
    reference = sorted(fronts["arms"][fronts["against"]]["points"])
    steps = [0.0, *(x for x, _ in reference)]
    heights = [max(y for x, y in reference if x >= step) for step in steps[1:]]
    panel.fill_between(steps, [*heights, heights[-1]], step="post", color="0.93")
    for index, (arm, found) in enumerate(fronts["arms"].items()):
        x, y = zip(*found["points"], strict=True)
        panel.plot(x, y, "osD^v"[index // 10 % 5] + "-", color=f"C{index % 10}", markersize=4, linewidth=1, label=arm)
    panel.plot(*fronts["base"], "*", color="0.2", markersize=9, label="base")
    panel.axvline(fronts["target"], color="0.5", linestyle=":", linewidth=1)
    panel.set_xlabel("gained: exp(-task nll)")
    panel.set_ylabel("kept: exp(-rise of the old nll)")
    every = [xy for found in fronts["arms"].values() for xy in found["points"]]
    for axis, values in zip("xy", zip(*every, strict=True), strict=True):
        room = 0.06 * (max(values) - min(values)) + 0.005
        panel.set(**{f"{axis}lim": (min(values) - room, max(values) + room)})  # the base may lie outside
    figure.legend(loc="outside right upper", fontsize=7)
    with matplotlib.rc_context(
        {"svg.hashsalt": "study", "svg.fonttype": "none"}
    ):  # the same file from the same numbers
        figure.savefig(path, metadata={"Date": None, "Creator": None})
