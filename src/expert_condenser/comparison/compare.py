"""Which method won, against a baseline, with paired statistics over seeds and items."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from expert_condenser.comparison.runs import Arm, Design
from expert_condenser.comparison.statistics import (
    POWER,
    RESAMPLES,
    Interval,
    check_level,
    effect_size,
    hierarchical_bootstrap,
    holm,
    mcnemar_p,
    minimum_detectable,
    t_test,
    wilcoxon_p,
)
from expert_condenser.errors import EvaluationError

AVERAGE = "average"
UNITS = {"accuracy": "points", "nll": "nats"}
_SCALE = {"accuracy": 100.0, "nll": 1.0}
BASELINE = "sft"


@dataclass(frozen=True)
class Row:
    """One arm on one metric. Differences are arm minus baseline; None is what does not exist or is not defined."""

    metric: str
    arm: str
    scores: list[float]
    """One per seed."""
    mean: float
    mean_interval: Interval | None = None
    difference: float | None = None
    t_interval: Interval | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    bootstrap_interval: Interval | None = None
    mcnemar_p: list[float] | None = None
    """One per seed."""
    mcnemar_below_alpha: int | None = None
    holm_p: float | None = None
    """Of the t-test; with one seed, of McNemar's."""
    effect_size: float | None = None
    minimum_detectable: float | None = None
    verdict: str = ""


def compare_runs(
    design: Design,
    *,
    baseline: str | None = None,
    metric: str = "accuracy",
    groups: Mapping[str, Sequence[str]] | None = None,
    only: Collection[str] | None = None,
    alpha: float = 0.05,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The comparison as JSON: a row for every metric and arm, the baseline's first; `notes` say what is missing.

    Metrics are the tasks, the groups, and the mean over all tasks; `only` keeps some of them.
    """
    check_level(alpha, resamples)
    base = design.arms[_baseline(design, baseline)]
    others = [arm for arm in design.arms.values() if arm is not base]
    rows: list[Row] = []
    metrics = _metrics(design, groups or {})
    for name, tasks in metrics.items() if only is None else [(name, metrics[name]) for name in only]:
        scores = {arm.label: _scores(arm, tasks, metric) for arm in design.arms.values()}
        rows.append(_row(name, base.label, scores[base.label], alpha))
        compared = []
        for arm in others:
            row = _over_seeds(_row(name, arm.label, scores[arm.label], alpha), scores[base.label], alpha, len(others))
            if metric == "accuracy" and design.paired_items:
                row = _over_items(row, arm, base, tasks, alpha, resamples)
            compared.append(row)
        rows += _verdicts(compared, metric, alpha)
    return {
        "baseline": base.label,
        "metric": metric,
        "unit": UNITS[metric],
        "alpha": alpha,
        "power": POWER,
        "resamples": resamples,
        "seeds": design.seeds,
        "arms": {label: [str(run.folder) for run in arm.runs.values()] for label, arm in design.arms.items()},
        "rows": [asdict(row) for row in rows],
        "notes": [*design.notes, *_notes(design, rows, metric, alpha)],
    }


def compare_both(
    design: Design,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    only: Collection[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`compare_runs` on the accuracy, and as `nll` in its report the one on the nll, where every run has it."""
    report = compare_runs(design, groups=groups, only=only, **options)
    metrics = _metrics(design, groups or {})
    known = [name for name in (metrics if only is None else only) if _have_nll(design, metrics[name])]
    if known:
        report["nll"] = compare_runs(design, metric="nll", groups=groups, only=known, **options)
        del report["nll"]["arms"]
        report["nll"]["notes"] = [note for note in report["nll"]["notes"] if note not in report["notes"]]
    return report


def _have_nll(design: Design, tasks: Sequence[str]) -> bool:
    runs = [run for arm in design.arms.values() for run in arm.runs.values()]
    return all(run.tasks[task].nll is not None for run in runs for task in tasks)


def _baseline(design: Design, asked: str | None) -> str:
    if asked is not None and asked not in design.arms:
        raise EvaluationError(f"--baseline is one of {', '.join(map(repr, design.arms))}; got {asked!r}")
    of_method = [label for label, arm in design.arms.items() if label.split()[0] == BASELINE]
    return asked or (BASELINE if BASELINE in design.arms else [*of_method, *design.arms][0])


def _metrics(design: Design, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Rows of the table: every task, the groups, and the mean over all tasks."""
    found = {task: [task] for task in design.tasks}
    for name, tasks in groups.items():
        if name in (*found, AVERAGE):
            raise EvaluationError(
                f"a group has a name of its own; {name!r} is that of a task, or {AVERAGE!r}. Rename it."
            )
        if unknown := [task for task in tasks if task not in design.tasks]:
            raise EvaluationError(
                f"a group is of tasks that are compared ({', '.join(design.tasks)}); {name!r} has {', '.join(unknown)}"
            )
        found[name] = list(tasks)
    return found | ({AVERAGE: list(design.tasks)} if len(design.tasks) > 1 else {})


def _scores(arm: Arm, tasks: Sequence[str], metric: str) -> Float[np.ndarray, " S"]:
    """The unweighted mean over tasks, per seed."""
    values = []
    for run in arm.runs.values():
        found = [getattr(run.tasks[task], metric) for task in tasks]
        if None in found:
            raise EvaluationError(
                f"--metric nll needs the nll of every task; {run.folder} has none of {tasks[found.index(None)]}. Name "
                "other tasks with --tasks, or evaluate again."
            )
        values.append(_SCALE[metric] * float(np.mean(found)))
    return np.array(values)


def _row(metric: str, label: str, scores: Float[np.ndarray, " S"], alpha: float) -> Row:
    test = t_test(scores, alpha)
    return Row(metric, label, scores.tolist(), float(scores.mean()), _interval(test.low, test.high))


def _over_seeds(row: Row, baseline: Float[np.ndarray, " S"], alpha: float, methods: int) -> Row:
    """The row with the statistics over seeds; of one seed there is only the difference."""
    differences = np.array(row.scores) - baseline
    row = replace(row, difference=float(differences.mean()))
    if differences.size == 1:
        return row
    test = t_test(differences, alpha)
    return replace(
        row,
        t_interval=_interval(test.low, test.high),
        t_p=_known(test.p),
        wilcoxon_p=_known(wilcoxon_p(differences)),
        effect_size=_known(effect_size(differences)),
        minimum_detectable=_known(minimum_detectable(differences, alpha, methods=methods)),
    )


def _over_items(row: Row, arm: Arm, base: Arm, tasks: Sequence[str], alpha: float, resamples: int) -> Row:
    """The row with the statistics over items; McNemar's test is of single tasks, since it weighs all items alike."""
    differences = [_correct(arm, task) - _correct(base, task) for task in tasks]
    interval = hierarchical_bootstrap(differences, np.random.default_rng(0), resamples=resamples, alpha=alpha)
    scale = _SCALE["accuracy"]
    row = replace(row, bootstrap_interval=interval and Interval(scale * interval.low, scale * interval.high))
    if len(tasks) > 1:
        return row
    pairs = [(arm.runs[seed].tasks[tasks[0]].correct, base.runs[seed].tasks[tasks[0]].correct) for seed in arm.runs]
    p_values = [mcnemar_p(method, baseline) for method, baseline in pairs]
    return replace(row, mcnemar_p=p_values, mcnemar_below_alpha=sum(p <= alpha for p in p_values))


def _correct(arm: Arm, task: str) -> Int[np.ndarray, "S N"]:
    return np.array([run.tasks[task].correct for run in arm.runs.values()]).astype(np.int8)


def _verdicts(rows: Sequence[Row], metric: str, alpha: float) -> list[Row]:
    """The rows of one metric with Holm's correction over methods, and what follows."""
    one_seed = len(rows[0].scores) == 1
    raw = [row.mcnemar_p[0] if one_seed and row.mcnemar_p else row.t_p for row in rows]
    adjusted = holm(np.array([math.nan if p is None else p for p in raw]))
    rows = [replace(row, holm_p=_known(p)) for row, p in zip(rows, adjusted, strict=True)]
    return [replace(row, verdict=_verdict(row, metric, alpha)) for row in rows]


def _verdict(row: Row, metric: str, alpha: float) -> str:
    assert row.difference is not None
    one_seed = len(row.scores) == 1
    if row.holm_p is None:
        if one_seed:
            return "not tested: one seed"
        return f"not tested: {'equal' if abs(row.difference) < 1e-9 else 'the same difference'} at every seed"
    scope = " on these items, of one seed" if one_seed else ""
    if row.holm_p <= alpha:
        return ("better" if (row.difference > 0) == (metric == "accuracy") else "worse") + scope
    seen = row.minimum_detectable
    limit = "" if seen is None else f" (would have seen >= {seen:.{1 if metric == 'accuracy' else 3}f} {UNITS[metric]})"
    return f"no difference found{scope}{limit}"


def _notes(design: Design, rows: Sequence[Row], metric: str, alpha: float) -> list[str]:
    """What the table leaves out, and why."""
    seeds, notes = len(design.seeds), []
    if seeds == 1:
        notes.append(
            f"statistics over seeds need two seeds or more, and there is one ({design.seeds[0]}): they are left out. "
            "Those over items say which of two models is better, not which method; train more seeds."
        )
    elif (lowest := 2 / 2**seeds) > alpha:
        notes.append(f"Wilcoxon's p over {seeds} seeds is at least {lowest:.3g}: it cannot fall below {alpha:g}")
    if metric == "nll":
        notes.append("nll is one number per run: there are no statistics over items")
    elif not design.paired_items:
        notes.append("the items differ: McNemar's test and the bootstrap need the same ones, and are left out")
    if undefined := [
        f"{row.arm} on {row.metric}" for row in rows if row.difference is not None and row.t_p is None and seeds > 1
    ]:
        notes.append(
            f"the difference is the same at every seed, so the t-test has no answer (—): {', '.join(undefined)}"
        )
    return notes


def _interval(low: Float[np.ndarray, ""], high: Float[np.ndarray, ""]) -> Interval | None:
    return None if np.isnan(low) else Interval(float(low), float(high))


def _known(value: float | Float[np.ndarray, ""]) -> float | None:
    return None if np.isnan(value) else float(value)
