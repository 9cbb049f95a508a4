"""The figures of `condenser analyze`, each from the numbers of one analysis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from expert_condenser.analysis.correlation import Correlation
from expert_condenser.analysis.divergence import Divergence
from expert_condenser.analysis.dynamics import Dynamics
from expert_condenser.analysis.gradients import OPTIMIZERS, GradientFlow
from expert_condenser.analysis.overlap import Overlap
from expert_condenser.analysis.quality import Quality
from expert_condenser.analysis.super_experts import SuperExperts
from expert_condenser.analysis.usage import ExpertUsage
from expert_condenser.report.canvas import panels


def color_of(number: int) -> str:
    """The color of the n-th line."""
    return f"C{number % 10}"


def draw_usage(usages: Sequence[ExpertUsage], stem: Path) -> None:
    """The long tail (mean over layers, and the range), its Gini index and the share of unused experts by depth."""
    with panels(stem, ["activation rate, experts sorted", "Gini index", "share of unused experts"]) as (tail, *others):
        for number, usage in enumerate(usages):
            color, tails = color_of(number), usage.tails
            ranks = range(1, tails.shape[1] + 1)
            tail.plot(ranks, tails.mean(0), color=color, label=usage.name)
            tail.fill_between(ranks, tails.amin(0), tails.amax(0), color=color, alpha=0.12, linewidth=0)
            statistics = usage.statistics()
            for axis, name in zip(others, ("gini", "dead_share"), strict=True):
                axis.plot(usage.layers, statistics[name], "o-", color=color, markersize=3)
        num_experts = usages[0].counts.shape[1]
        tail.axhline(1 / num_experts, color="0.5", linestyle=":", linewidth=1)
        tail.set(xlabel="rank of the expert in its layer", yscale="log")
        for axis in others:
            axis.set(xlabel="layer", ylim=(0, 1))


def draw_overlap(found: Sequence[Overlap], layers: Sequence[int], stem: Path) -> None:
    """Common part of the usage, and how many of the busiest experts are the same, by depth."""
    with panels(stem, ["common usage", "same busiest experts"]) as (common, same):
        for number, pair in enumerate(found):
            label, color = f"{pair.first} and {pair.second}", color_of(number)
            common.plot(layers, pair.common, "o-", color=color, markersize=3, label=label)
            same.plot(layers, pair.same_top, "o-", color=color, markersize=3)
            same.plot(layers, pair.by_chance, ":", color=color, linewidth=1)
        for axis in (common, same):
            axis.set(xlabel="layer", ylim=(0, 1.02))


def draw_divergence(found: Sequence[Divergence], stem: Path) -> None:
    """The divergence from the base by depth, and how many tokens would get other experts on the same inputs."""
    with panels(stem, ["divergence of the MoE output", "tokens with other experts"]) as (relative, changed):
        for number, each in enumerate(found):
            color = color_of(number)
            relative.plot(each.layers, each.relative, "o-", color=color, markersize=3, label=each.name)
            changed.plot(each.layers, each.changed_choice, "o-", color=color, markersize=3)
        relative.set(xlabel="layer", ylim=(0, None))
        changed.set(xlabel="layer", ylim=(0, 1))


def draw_correlation(found: Sequence[Correlation], condensers: Mapping[int, Sequence[int]], stem: Path) -> None:
    """By depth, the mean correlation of all pairs (solid) and of the condensers with the others (dashed)."""
    middle = len(found[0].layers) // 2
    titles = ["correlation of the outputs", *(f"{c.name}, layer {c.layers[middle]}" for c in found[:2])]
    with panels(stem, titles) as (mean, *maps):
        for number, each in enumerate(found):
            color = color_of(number)
            mean.plot(each.layers, each.mean(), "o-", color=color, markersize=3, label=f"{each.name}, all pairs")
            if condensers:
                label = f"{each.name}, condensers with others"
                mean.plot(each.layers, each.mean_of(condensers), "D--", color=color, markersize=3, label=label)
        mean.set(xlabel="layer")
        for axis, each in zip(maps, found, strict=False):
            axis.imshow(each.matrix[middle].numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
            axis.grid(visible=False)
            axis.set(xlabel="expert", ylabel="expert")


def draw_ablation(found: Mapping[str, Mapping[str, Quality]], stem: Path) -> None:
    """Nll and accuracy of every variant of every model, with their intervals."""
    with panels(stem, ["nll, nats per token", "exact match"]) as axes:
        for number, (name, variants) in enumerate(found.items()):
            place = [at + 0.12 * number for at in range(len(variants))]
            for which, axis in enumerate(axes):
                values = [(q.nll_per_token, q.accuracy)[which] for q in variants.values()]
                ends = [q.intervals()[1 - which] for q in variants.values()]
                axis.vlines(place, [e.low for e in ends], [e.high for e in ends], color=color_of(number))
                axis.plot(place, values, "o", color=color_of(number), markersize=5, label=name)
                axis.set_xticks(range(len(variants)), list(variants))


def draw_gradients(flow: GradientFlow, stem: Path) -> None:
    """By decile of usage: update frequency and gradient norm; per expert, how far each optimizer moved it."""
    deciles = flow.by_decile()
    titles = ["steps with a gradient", "gradient norm, mean over steps", "moved by the optimizer"]
    with panels(stem, titles) as (frequency, gradient, moved):
        usage = [row["usage"] for row in deciles]
        frequency.plot(usage, [row["frequency"] for row in deciles], "o-", color="C0", label="deciles of usage")
        frequency.plot(usage, usage, ":", color="0.4", label="Θ(S p): one token per step")
        gradient.plot(usage, [row["gradient"] for row in deciles], "o-", color="C0")
        for number, name in enumerate(OPTIMIZERS, start=1):
            label = f"{name}: slope {flow.slope(name):.2f}"
            x, y = flow.usage.flatten(), flow.moved[name].flatten()
            kept = (x > 0) & (y > 0)
            moved.plot(x[kept], y[kept] / y[kept].mean(), ".", color=color_of(number), markersize=4, label=label)
        for axis in (frequency, gradient, moved):
            axis.set(xlabel="p, tokens that choose the expert", xscale="log", yscale="log")
        moved.set_ylabel("‖ΔW‖, mean 1")


def draw_dynamics(runs: Sequence[Dynamics], stem: Path) -> None:
    """Every logged curve of all runs over each other; dotted lines are where a phase begins."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    with panels(stem, [*names, "Gini index of usage"]) as axes:
        for number, run in enumerate(runs):
            color = color_of(number)
            for name, axis in zip(names, axes, strict=False):
                points = [(x, y) for x, y in zip(run.steps, run.curves.get(name, []), strict=False) if y is not None]
                axis.plot(*zip(*points, strict=True), color=color, linewidth=1, label=run.name) if points else None
            axes[-1].plot(run.usage_steps, run.gini(), color=color, linewidth=1)
            for start in list(run.phases.values())[1:]:
                for axis in axes:
                    axis.axvline(start, color=color, linestyle=":", linewidth=1)
        for axis in axes:
            axis.set(xlabel="step")


def draw_super(found: Sequence[SuperExperts], stem: Path) -> None:
    """The largest output of every expert, sorted; the super experts of the base are followed by name."""
    with panels(stem, ["largest output of an expert", "the base's super experts"]) as (largest, followed):
        places = found[0].found[:12]
        for number, each in enumerate(found):
            values = each.largest.flatten().sort(descending=True).values
            values = torch.where(values > 0, values, torch.nan)
            largest.plot(range(1, len(values) + 1), values, color=color_of(number), label=each.name)
            followed.plot(range(len(places)), [each.largest[p] for p in places], "o", color=color_of(number))
        largest.set(xscale="log", yscale="log", xlabel="rank of the expert in the model")
        followed.set_xticks(range(len(places)), [f"{found[0].layers[at]}:{i}" for at, i in places])
        followed.set(xlabel="layer:expert")


def draw_pruning(content: Mapping[str, Any], stem: Path) -> None:
    """Nll against the experts kept, a panel for each scope and way; the control is its draws' mean and range."""
    kinds = list(dict.fromkeys((row["scope"], row["rescale"]) for row in content["prunes"]))
    titles = [f"{scope}, {'weights of a cut model' if rescale else 'weights as they were'}" for scope, rescale in kinds]
    criteria = list(dict.fromkeys(row["criterion"] for row in content["prunes"] if row["draw"] is None))
    with panels(stem, titles, columns=2) as axes:
        for (scope, rescale), axis in zip(kinds, axes, strict=True):
            rows = [row for row in content["prunes"] if (row["scope"], row["rescale"]) == (scope, rescale)]
            for number, name in enumerate(criteria):
                own = sorted((row for row in rows if row["criterion"] == name), key=lambda row: row["kept"])
                x, ends = [row["kept"] for row in own], [row["nll_interval"] for row in own]
                axis.plot(x, [row["nll"] for row in own], "o-", color=color_of(number), markersize=3, label=name)
                axis.fill_between(x, *zip(*ends, strict=True), color=color_of(number), alpha=0.12, linewidth=0)
            _control(axis, [row for row in rows if row["draw"] is not None])
            axis.axhline(content["whole"]["nll"], color="0.4", linestyle=":", linewidth=1)
            axis.set(xlabel="experts kept per layer", ylabel="nll, nats per token")
            axis.xaxis.get_major_locator().set_params(integer=True)


def _control(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    drawn: dict[int, list[float]] = {}
    for row in rows:
        drawn.setdefault(row["kept"], []).append(row["nll"])
    if not drawn:
        return
    x = sorted(drawn)
    axis.plot(x, [sum(drawn[n]) / len(drawn[n]) for n in x], "s--", color="0.35", markersize=3, label="random, mean")
    low, high = [min(drawn[n]) for n in x], [max(drawn[n]) for n in x]
    axis.fill_between(x, low, high, color="0.35", alpha=0.15, linewidth=0)
