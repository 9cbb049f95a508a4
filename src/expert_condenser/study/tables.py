"""The tables of a study, from its raw files alone: `run.json` and `results.json` of every run, and the base's results.

    condenser study tables DIR      writes tables.md, comparison.json, plot.png and, of a grid, fronts.svg to DIR

What the runs are to learn (`learn`, by default the first task) stands beside what the base knew before (`known`, by
default the other tasks), accuracy beside nll.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from expert_condenser.comparison.arms import Run
from expert_condenser.comparison.compare import compare_both
from expert_condenser.comparison.tables import MISSING, plain_table, render
from expert_condenser.errors import EvaluationError
from expert_condenser.study.contrast_tables import contrast_table, front_table
from expert_condenser.study.fronts import Scores, contrasts_of, fronts_of, rounded
from expert_condenser.study.gather import Gathered, gather
from expert_condenser.study.plan import BEFORE, best_options, read_study
from expert_condenser.study.plots import plot_arms, plot_fronts
from expert_condenser.training.record import RUN, RunRecord

TABLES, COMPARISON, PLOT, FRONTS = "tables.md", "comparison.json", "plot.png", "fronts.svg"


def write_tables(root: Path) -> list[Path]:
    """Make tables and plots again from the raw files; returns what was written."""
    gathered = gather(root)
    report = compare(gathered)
    paths = [root / TABLES, root / COMPARISON]
    paths[0].write_text(markdown(gathered, report))
    paths[1].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if "rows" in report:
        paths.append(root / PLOT)
        plot_arms([report, *([report["nll"]] if "nll" in report else [])], *_shown(gathered), paths[-1])
    if "fronts" in report:
        paths.append(root / FRONTS)
        plot_fronts(report["fronts"], paths[-1])
    return paths


def compare(gathered: Gathered) -> dict[str, Any]:
    """`compare_both` on what is learnt, what was learnt before and the study's groups; its contrasts and fronts.

    Where the baseline is an arm that has several points of a grid, or there are contrasts and no baseline, there is no
    label to compare all others with.
    """
    study = gathered.study
    report: dict[str, Any] = {"seeds": gathered.design.seeds}
    if not study.contrasts if study.baseline is None else len(gathered.labels.get(study.baseline, [])) < 2:
        only = list(dict.fromkeys([study.learnt, *study.named_groups]))
        report = compare_both(gathered.design, baseline=study.baseline, groups=study.named_groups, only=only)
        report["arms"] = {label: len(folders) for label, folders in report["arms"].items()}
    scores = Scores(gathered)
    if study.contrasts:
        report["contrasts"] = contrasts_of(gathered, scores)
    if (fronts := fronts_of(gathered, scores)) is not None:
        report["fronts"] = fronts
    whole: dict[str, Any] = rounded(report)
    return whole


def markdown(gathered: Gathered, report: dict[str, Any]) -> str:
    """All tables of a study as one Markdown text."""
    head = (
        f"{gathered.finished} of {gathered.planned} runs are done; compared are {len(report['seeds'])} seeds "
        f"({', '.join(map(str, report['seeds']))}). Base model: "
        + ", ".join(f"{name} {_both(gathered, name)}" for name in _scores(gathered))
        + "."
    )
    summary = plain_table("Summary; mean ± standard deviation over seeds", *summary_cells(gathered), "markdown")
    return (
        "\n\n".join(
            [
                f"# {gathered.root.resolve().name}",
                head,
                summary,
                *([front_table(report["fronts"], len(report["seeds"]))] if "fronts" in report else []),
                *([contrast_table(report["contrasts"])] if "contrasts" in report else []),
                *([render(report, "markdown")] if "rows" in report else []),
                plain_table("Accuracy on every task, mean over seeds", *_per_task(gathered), "markdown"),
                plain_table(
                    "nll on every task in nats per token, mean over seeds", *_nll_per_task(gathered), "markdown"
                ),
            ]
        )
        + "\n"
    )


def _scores(gathered: Gathered) -> list[str]:
    """What is learnt, and what was learnt before where there is anything."""
    return [gathered.study.learnt, *([BEFORE] if gathered.study.known_tasks else [])]


def _both(gathered: Gathered, name: str) -> str:
    nll = gathered.base_nll(name)
    return f"{gathered.base_score(name):.1f}" + ("" if nll is None else f" (nll {nll:.3f})")


def _shown(gathered: Gathered) -> tuple[list[str], dict[str, float]]:
    """The metrics of the picture, and what the base model scores; its nll on what is new to it is out of all scale."""
    names = _scores(gathered)
    points = {f"points {name}": gathered.base_score(name) for name in names}
    return names, {**points, **{f"nats {name}": nll for name in names[1:] if (nll := gathered.base_nll(name))}}


def summary_cells(gathered: Gathered) -> tuple[list[str], list[list[str]]]:
    """One row per arm: what was learnt, what was forgotten, each with its nll, and what it cost."""
    titles = ["arm", "learning rate"]
    for name in _scores(gathered):
        titles += [name, "forgotten", "nll before"] if name == BEFORE else [name, "nll"]
    measured = [title for title, read in _MEASURES.items() if any(read(run) is not None for run in _runs(gathered))]
    cells = []
    for label, arm in gathered.design.arms.items():
        runs = list(arm.runs.values())
        row = [label, f"{runs[0].config['learning_rate']:g}"]
        for name in _scores(gathered):
            tasks = gathered.tasks_of(name)
            known = [100 * mean(run.tasks[task].accuracy for task in tasks) for run in runs]
            lost = [f"{gathered.base_score(BEFORE) - mean(known):.1f}"] if name == BEFORE else []
            row += [_spread(known), *lost, _spread([_nll(run, tasks) for run in runs], 3)]
        row += [_spread([_MEASURES[title](run) for run in runs], 3) for title in measured]
        cells.append([*row, *_costs(runs)])
    return [*titles, *measured, "CPU seconds", "TFLOP", "peak MB"], cells


_MEASURES: dict[str, Any] = {
    "KL to base": lambda run: run.measures.get("kl_to_base", {}).get("mean"),
    "nll before, relearnt": lambda run: run.measures.get("relearning", {}).get("nll_after"),
}


def _runs(gathered: Gathered) -> list[Run]:
    return [run for arm in gathered.design.arms.values() for run in arm.runs.values()]


def _costs(runs: Sequence[Run]) -> list[str]:
    costs = [_cost(run.folder) for run in runs]
    whole = [cost["cpu_seconds"] for cost in costs if not cost["resumed"]]
    return [
        f"{median(whole):.0f}" if whole else MISSING,
        f"{costs[0]['flops'] / 1e12:.2f}" if costs[0]["flops"] else MISSING,
        f"{median(cost['peak_mb'] for cost in costs):.0f}",
    ]


def _nll(run: Run, tasks: Sequence[str]) -> float | None:
    found = [nll for task in tasks if (nll := run.tasks[task].nll) is not None]
    return mean(found) if len(found) == len(tasks) else None


def _per_task(gathered: Gathered) -> tuple[list[str], list[list[str]]]:
    tasks = list(gathered.study.evaluate.tasks)
    rows = [["base", *(f"{gathered.base_score(task):.0f}" for task in tasks)]]
    for label, arm in gathered.design.arms.items():
        means = [mean(run.tasks[task].accuracy for run in arm.runs.values()) for task in tasks]
        rows.append([label, *(f"{100 * value:.0f}" for value in means)])
    return ["arm", *map(_short, tasks)], rows


def _nll_per_task(gathered: Gathered) -> tuple[list[str], list[list[str]]]:
    tasks = list(gathered.study.evaluate.tasks)
    rows = [["base", *(_spread([gathered.base[task].nll], 3) for task in tasks)]]
    for label, arm in gathered.design.arms.items():
        runs = list(arm.runs.values())
        rows.append([label, *(_mean([_nll(run, [task]) for run in runs]) for task in tasks)])
    return ["arm", *map(_short, tasks)], rows


def _short(task: str) -> str:
    return task.partition(":")[2] or task


def _mean(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{mean(found):.3f}" if len(found) == len(values) else MISSING


def _cost(folder: Path) -> dict[str, Any]:
    cost = RunRecord.read(folder / RUN).cost
    if cost is None:
        raise EvaluationError(f"a run of a study has its cost in {RUN}, and {folder} has none; run the study again")
    return cost


def _spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean and standard deviation; nothing where a seed has no value."""
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return MISSING
    centre = mean(found)
    if len(found) == 1:
        return f"{centre:.{digits}f}"
    deviation = (sum((value - centre) ** 2 for value in found) / (len(found) - 1)) ** 0.5
    return f"{centre:.{digits}f} ± {deviation:.{digits}f}"


def best_table(root: Path) -> str:
    """The options that a sweep chose, an arm a line; one at an end of its grid may not be the best there is."""
    grid, rows = read_study(root / "study.yaml").grid, []
    for arm, point in best_options(root).items():
        ends = [name for name, value in point.items() if value in (grid[name][0], grid[name][-1])]
        note = f"{', '.join(ends)} is at an end of the grid" if ends else ""
        rows.append([arm, ", ".join(f"{name} = {value}" for name, value in point.items()), note])
    return plain_table("Chosen", ["arm", "options", "verdict"], rows, "markdown")
