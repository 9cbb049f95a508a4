"""The tables of a study, from its raw files alone: `run.json` and `results.json` of every run, and the base's results.

    condenser study tables DIR      writes DIR/tables.md, DIR/comparison.json and DIR/plot.png

The first task of the study is what the runs train on; the others are what the base knew before.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from expert_condenser.comparison.compare import compare_runs
from expert_condenser.comparison.runs import Design, read_design
from expert_condenser.comparison.tables import MISSING, plain_table, render
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.study.done import is_done
from expert_condenser.study.plan import Cell, Study, best_options, read_study
from expert_condenser.study.plots import plot_arms
from expert_condenser.training.record import RUN, RunRecord

TABLES, COMPARISON, PLOT = "tables.md", "comparison.json", "plot.png"
BEFORE = "learnt before"
"""The mean over the tasks that the runs did not train on."""


@dataclass(frozen=True)
class Gathered:
    """The runs of a study that are compared: those of the seeds that every arm has finished."""

    study: Study
    root: Path
    design: Design
    planned: int
    """Runs that the study has."""
    finished: int
    """Runs with results; those of seeds that are not whole are not compared."""


def write_tables(root: Path) -> list[Path]:
    """Make tables and plot again from the raw files; returns what was written."""
    gathered = gather(root)
    report = compare(gathered)
    paths = [root / TABLES, root / COMPARISON, root / PLOT]
    paths[0].write_text(markdown(gathered, report))
    paths[1].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    plot_arms(report, gathered.study.first_task, BEFORE, base_scores(gathered), paths[2])
    return paths


def gather(root: Path) -> Gathered:
    """Read a study's runs, and those of other studies that stand beside them."""
    study = read_study(root / "study.yaml")
    planned = study.cells()
    cells = [cell for cell in planned if is_done(root, cell)]
    seeds = [seed for seed in study.seeds if _labels(planned, seed) == _labels(cells, seed)]
    if not seeds:
        raise EvaluationError(f"tables need every arm of a seed, and {root} has no seed whose runs are all done")
    folders = [root / cell.folder for cell in cells if cell.seed in seeds]
    for other, arms in study.beside.items():
        for arm in arms:
            found = [run for run in sorted((root / other / "runs" / arm).glob("seed*")) if (run / RESULTS).exists()]
            if not found:
                raise EvaluationError(
                    f"`beside` names arms of other studies, and {root / other} has no runs of {arm!r}"
                )
            folders += found
    design = read_design(folders, allow=("seeds",) if study.beside else ())
    return Gathered(study, root, design, len(planned), len(cells))


def compare(gathered: Gathered) -> dict[str, Any]:
    """`compare_runs` on the first task, and on the mean of the others where there are any; folders from the root."""
    study = gathered.study
    groups = {**({BEFORE: study.other_tasks} if study.other_tasks else {}), **study.groups}
    only = [study.first_task, *groups]
    report = compare_runs(gathered.design, baseline=study.baseline, groups=groups, only=only)
    report["arms"] = {label: len(folders) for label, folders in report["arms"].items()}
    return report


def base_scores(gathered: Gathered) -> dict[str, float]:
    """What the base model scores before any training, in points, on the first task and on `BEFORE`."""
    tasks = Results.read(gathered.root / gathered.study.base_cell.folder / RESULTS).tasks
    others = [tasks[name]["accuracy"] for name in gathered.study.other_tasks]
    return {
        gathered.study.first_task: 100 * tasks[gathered.study.first_task]["accuracy"],
        **({BEFORE: 100 * mean(others)} if others else {}),
    }


def markdown(gathered: Gathered, report: dict[str, Any]) -> str:
    """All tables of a study as one Markdown text."""
    base = base_scores(gathered)
    head = (
        f"{gathered.finished} of {gathered.planned} runs are done; compared are {len(report['seeds'])} seeds "
        f"({', '.join(map(str, report['seeds']))}). Base model: "
        + ", ".join(f"{name} {score:.1f}" for name, score in base.items())
        + "."
    )
    summary = plain_table("Summary; mean ± standard deviation over seeds", *_summary(gathered, report), "markdown")
    details = render(report, "markdown")
    families = plain_table("Accuracy on every task, mean over seeds", *_per_task(gathered), "markdown")
    return "\n\n".join([f"# {gathered.root.resolve().name}", head, summary, details, families]) + "\n"


def _summary(gathered: Gathered, report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row per arm: what was learnt, what was forgotten, and what it cost."""
    study, base = gathered.study, base_scores(gathered)
    rows = {(row["metric"], row["arm"]): row for row in report["rows"]}
    titles = ["arm", "learning rate", study.first_task]
    titles += [BEFORE, "forgotten"] if study.other_tasks else []
    cells = []
    for label, arm in gathered.design.arms.items():
        runs = list(arm.runs.values())
        costs = [_cost(run.folder) for run in runs]
        row = [label, f"{runs[0].config['learning_rate']:g}", _spread(rows[study.first_task, label]["scores"])]
        if study.other_tasks:
            known = rows[BEFORE, label]["scores"]
            row += [_spread(known), f"{base[BEFORE] - mean(known):.1f}"]
        nlls = [nll for run in runs if (nll := run.tasks[study.first_task].nll) is not None]
        whole = [cost["cpu_seconds"] for cost in costs if not cost["resumed"]]
        row += [f"{mean(nlls):.3f}" if nlls else MISSING, f"{median(whole):.0f}" if whole else MISSING]
        row += [f"{costs[0]['flops'] / 1e12:.2f}" if costs[0]["flops"] else MISSING]
        cells.append([*row, f"{median(cost['peak_mb'] for cost in costs):.0f}"])
    return [*titles, "nll", "CPU seconds", "TFLOP", "peak MB"], cells


def _per_task(gathered: Gathered) -> tuple[list[str], list[list[str]]]:
    tasks = list(gathered.study.evaluate.tasks)
    base = Results.read(gathered.root / gathered.study.base_cell.folder / RESULTS).tasks
    rows = [["base", *(f"{100 * base[task]['accuracy']:.0f}" for task in tasks)]]
    for label, arm in gathered.design.arms.items():
        means = [mean(run.tasks[task].accuracy for run in arm.runs.values()) for task in tasks]
        rows.append([label, *(f"{100 * value:.0f}" for value in means)])
    return ["arm", *(task.partition(":")[2] or task for task in tasks)], rows


def _cost(folder: Path) -> dict[str, Any]:
    cost = RunRecord.read(folder / RUN).cost
    if cost is None:
        raise EvaluationError(f"a run of a study has its cost in {RUN}, and {folder} has none; run the study again")
    return cost


def _spread(scores: Sequence[float]) -> str:
    centre = mean(scores)
    if len(scores) == 1:
        return f"{centre:.1f}"
    deviation = (sum((score - centre) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    return f"{centre:.1f} ± {deviation:.1f}"


def _labels(cells: Sequence[Cell], seed: int) -> set[str]:
    return {cell.label for cell in cells if cell.seed == seed}


def best_table(root: Path) -> str:
    """The options that a sweep chose, an arm a line; one at an end of its grid may not be the best there is."""
    grid, rows = read_study(root / "study.yaml").grid, []
    for arm, point in best_options(root).items():
        ends = [name for name, value in point.items() if value in (grid[name][0], grid[name][-1])]
        note = f"{', '.join(ends)} is at an end of the grid" if ends else ""
        rows.append([arm, ", ".join(f"{name} = {value}" for name, value in point.items()), note])
    return plain_table("Chosen", ["arm", "options", "verdict"], rows, "markdown")
