"""A study as a picture: every seed a dot, every arm its mean and confidence interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot_arms(report: dict[str, Any], task: str, before: str, base: Mapping[str, float], path: Path) -> None:
    """One panel for the task, one for what was learnt before; the dashed line is the base model."""
    metrics = [metric for metric in (task, before) if any(row["metric"] == metric for row in report["rows"])]
    arms = list(report["arms"])
    figure = Figure(figsize=(5.0 * len(metrics) + 1.5, 0.38 * len(arms) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        rows = {row["arm"]: row for row in report["rows"] if row["metric"] == metric}
        for position, arm in enumerate(arms):
            row = rows[arm]
            panel.plot(row["scores"], [position] * len(row["scores"]), "o", color="0.65", markersize=4, zorder=1)
            interval = row["mean_interval"]
            if interval is not None:
                panel.plot([interval["low"], interval["high"]], [position] * 2, color="C0", linewidth=2, zorder=2)
            panel.plot(row["mean"], position, "D", color="C0", markersize=5, zorder=3)
        panel.axvline(base[metric], color="0.3", linestyle="--", linewidth=1)
        panel.set_yticks(range(len(arms)), arms)
        panel.set_xlabel(f"{metric}: exact match, %")
        panel.grid(axis="x", color="0.9")
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110, metadata={"Software": None})
