"""The figures that plotly draws from one table of numbers: the front of a study, curves over steps, the long tail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from expert_condenser.report.page.runs import RunFiles
from expert_condenser.report.page.tables import Curve, Table, table_of_curves

NAMES = {
    "nll": "nll, nats per token",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "bias_range": "range of the bias",
    "route_churn": "tokens with other experts than before",
    "condenser_gate_share": "gate mass of the condensers",
    "expert_diversity": "expert diversity exp(H)/E",
}
"""What a curve of the log is called."""


@dataclass(frozen=True)
class Figure:
    """What plotly draws, what a screen reader says of it, and its numbers."""

    title: str
    alt: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    table: Table


def _line(name: str, x: Sequence[int | float], y: Sequence[int | float | None], mode: str = "lines") -> dict[str, Any]:
    """Plotly reads names as HTML, so they are escaped."""
    return {"type": "scatter", "mode": mode, "name": escape(name, quote=False), "x": list(x), "y": list(y)}


def curve_figures(runs: Sequence[RunFiles]) -> list[Figure]:
    """Every logged curve, and the Gini index of usage, of all runs over each other."""
    logs = [(run.label, run.log) for run in runs if run.log is not None]
    found = []
    for key, title in NAMES.items():
        curves = {name: (log.steps, log.curves[key]) for name, log in logs if key in log.curves}
        found += [_over_steps(title, curves)] if curves else []
    gini = {name: (log.usage_steps, log.gini()) for name, log in logs if log.counts is not None}
    return [*found, *([_over_steps("Gini index of usage", gini)] if gini else [])]


def _over_steps(title: str, curves: Mapping[str, Curve]) -> Figure:
    ends = []
    for name, (_, values) in curves.items():
        known = [value for value in values if value is not None]
        ends += [f"{name} from {known[0]:.4g} to {known[-1]:.4g}"] if known else []
    return Figure(
        title,
        f"{title} over training steps: {'; '.join(ends)}.",
        [_line(name, x, y) for name, (x, y) in curves.items()],
        {"xaxis": {"title": {"text": "step"}}},
        table_of_curves(f"{title} by step", "step", curves),
    )


def tail_figure(runs: Sequence[RunFiles]) -> Figure | None:
    """The long tail: shares of the experts of a layer, sorted, mean over layers, in the first and last interval."""
    curves: dict[str, Curve] = {}
    for run in runs:
        counts = None if run.log is None else run.log.counts
        if counts is not None and run.log is not None:
            for moment, interval in (("at the start", counts[0]), ("at the end", counts[-1])):
                shares = interval / interval.sum(-1, keepdim=True).clamp(min=1)
                tail = shares.sort(-1, descending=True).values.mean(0).to(torch.float64)
                curves[f"{run.label} {moment}"] = range(1, len(tail) + 1), tail.tolist()
    if not curves:
        return None
    busiest = "; ".join(f"{name} {100 * (tail[0] or 0):.1f} %" for name, (_, tail) in curves.items())
    return Figure(
        "The long tail: share of selections, experts sorted in their layer",
        f"Share of selections by rank of the expert, mean over layers. The busiest expert has: {busiest}.",
        [_line(name, x, y) for name, (x, y) in curves.items()],
        {"xaxis": {"title": {"text": "rank of the expert in its layer"}}, "yaxis": {"type": "log"}},
        table_of_curves("Share of selections by rank", "rank", curves),
    )


def front_figure(fronts: dict[str, Any]) -> Figure:
    """What every arm gained and kept at every point of the grid, beside the base."""
    rows, traces = [], []
    for arm, found in fronts["arms"].items():
        x, y = zip(*found["points"], strict=True)
        traces.append({**_line(arm, x, y, "lines+markers"), "text": [escape(each) for each in found["labels"]]})
        rows += [
            [label, f"{a:.4f}", f"{b:.4f}"] for label, (a, b) in zip(found["labels"], found["points"], strict=True)
        ]
    base = fronts["base"]
    star = {"symbol": "star", "size": 12}
    traces.append({**_line("base", base[:1], base[1:], "markers"), "marker": star, "text": ["base"]})
    areas = ", ".join(f"{arm} {sum(f['scores']) / len(f['scores']):.2f} %" for arm, f in fronts["arms"].items())
    return Figure(
        "Fronts, mean over seeds",
        f"What arms gained against what they kept, a point for each point of the grid. Area dominated: {areas}.",
        [{**trace, "hovertemplate": "%{text}<br>gained %{x:.4f}<br>kept %{y:.4f}<extra></extra>"} for trace in traces],
        {
            "xaxis": {"title": {"text": "gained: exp(-nll of what is learnt)"}},
            "yaxis": {"title": {"text": "kept: exp(-rise of the nll of what was known)"}},
        },
        Table(
            "What arms gained and kept, mean over seeds", ["arm", "gained", "kept"], [["base", *map(str, base)], *rows]
        ),
    )
