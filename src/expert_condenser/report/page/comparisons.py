"""The report of runs that somebody names: of one, against its base, or of several, against each other."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expert_condenser.comparison.arms import Arm, Run, group, read_run, read_task
from expert_condenser.comparison.compare import AVERAGE, compare_both
from expert_condenser.comparison.runs import Design, read_design
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.report.page.answers import Answer, answer_against_base, answer_of_comparison, answer_of_one
from expert_condenser.report.page.report import Report, shown_runs
from expert_condenser.report.page.runs import RunFiles, check_no_double, check_one_base, read_files
from expert_condenser.report.page.tables import Table, comparison_tables
from expert_condenser.training.record import RUN

BASE = "the base"
_FEW = 4
"""So many tasks are shown each by a table, and not their average alone."""
LEARNT, OTHERS = "what was to be learnt", "all other tasks"


@dataclass(frozen=True)
class Terms:
    """How runs are compared, as for `condenser compare`."""

    base: Path | None = None
    """Folder with the results of the base model."""
    learn: tuple[str, ...] = ()
    """The tasks that the runs were to learn; by default the one that their data is of."""
    baseline: str | None = None
    allow: tuple[str, ...] = ()

    def check_unused(self, what: str, *names: str) -> None:
        """Raise `EvaluationError` where something is asked for that has no effect on a report of `what`."""
        if given := [f"--{name}" for name in names if getattr(self, name)]:
            raise EvaluationError(f"{', '.join(given)} has no effect on a report of {what}; leave it out")


def report_of_runs(folders: Sequence[Path], terms: Terms) -> Report:
    """Read runs; raises an `ExpertCondenserError` where they do not belong together, or a file is damaged."""
    check_no_double(folders)
    files = [read_files(folder) for folder in folders]
    check_one_base(files)
    without = [run for run in files if not run.record.finished or not (run.folder / RESULTS).is_file()]
    if without:
        terms.check_unused("runs that are not all evaluated", "base", "learn", "baseline", "allow")
        return _not_evaluated(files, without)
    arms = group(read_run(folder) for folder in folders)
    if len(arms) == 1:
        terms.check_unused("runs of one method", "learn", "baseline", "allow")
        return _of_one_arm(next(iter(arms.values())), terms)
    design = read_design(folders, allow=terms.allow)
    groups, focus = _focus(design, terms)
    found = compare_both(design, baseline=terms.baseline, groups=groups)
    runs, left_out = shown_runs(*_first_seed(design.arms))
    notes = [*_notes(found), *_base_scores(design.tasks, terms), *left_out]
    return Report(
        _title(design.arms), answer_of_comparison(found, focus), *comparison_tables(found, focus), runs, notes
    )


def _title(arms: Collection[str]) -> str:
    return " and ".join(arms) if len(arms) < 4 else f"{len(arms)} arms"


def _not_evaluated(files: Sequence[RunFiles], without: Sequence[RunFiles]) -> Report:
    runs, left_out = shown_runs([run.folder for run in files])
    if len(files) == 1:
        answer = answer_of_one(runs[0].label, {})
    else:
        names = ", ".join(str(run.folder) for run in without)
        answer = Answer(
            f"No comparison: not finished, or not evaluated, is {names}.", ["Ask a run's model with condenser eval."]
        )
    return Report(_title([run.label for run in runs]), answer, [], [], runs, left_out)


def _of_one_arm(arm: Arm, terms: Terms) -> Report:
    """One method, of one seed or several: against its base, where the base's results are given."""
    folders, labels = [run.folder for run in arm.runs.values()], {run.folder: arm.label for run in arm.runs.values()}
    runs, left_out = shown_runs(folders, labels)
    first = next(iter(arm.runs.values()))
    if terms.base is None:
        answer = answer_of_one(arm.label, {name: task.accuracy for name, task in first.tasks.items()})
        return Report(arm.label, answer, [_scores(arm)], [], runs, left_out)
    design = _beside_base(arm, terms.base)
    found = compare_both(design, baseline=BASE)
    shown = comparison_tables(found, design.tasks if len(design.tasks) < _FEW else [AVERAGE])
    return Report(arm.label, answer_against_base(found), *shown, runs, [*_notes(found), *left_out])


def _scores(arm: Arm) -> Table:
    rows = [
        [name, *(f"{100 * run.tasks[name].accuracy:.1f}" for run in arm.runs.values())]
        for name in next(iter(arm.runs.values())).tasks
        if all(name in run.tasks for run in arm.runs.values())
    ]
    return Table(f"Accuracy of {arm.label} in %", ["task", *(f"seed {seed}" for seed in arm.runs)], rows)


def _beside_base(arm: Arm, folder: Path) -> Design:
    """Runs and their base as two arms; raises `EvaluationError` where the base was asked something else."""
    tasks = _base_tasks(folder)
    shared = [name for name in tasks if all(name in run.tasks for run in arm.runs.values())]
    if not shared:
        raise EvaluationError(f"{folder} has results on none of the run's tasks; evaluate the base on them")
    for run in arm.runs.values():
        for name in shared:
            if (run.tasks[name].items, run.tasks[name].prompts) != (tasks[name].items, tasks[name].prompts):
                raise EvaluationError(
                    f"a run and its base answer the same items by the same prompts; {run.folder} and {folder} differ "
                    f"on {name}: evaluate both alike"
                )
    base = Arm(BASE, {seed: replace(run, name=BASE, folder=folder, tasks=tasks) for seed, run in arm.runs.items()})
    return Design({BASE: base, arm.label: arm}, list(arm.runs), shared, paired_items=True)


def _base_tasks(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        raise EvaluationError(
            f"--base is the folder of `condenser eval --model BASE`, with {RESULTS}; {folder} has none"
        )
    if (folder / RUN).exists():
        raise EvaluationError(f"--base is the folder of a base's results; {folder} is that of a run: name another")
    return {name: read_task(name, content, path) for name, content in Results.read(path).tasks.items()}


def _base_scores(tasks: Sequence[str], terms: Terms) -> list[str]:
    if terms.base is None:
        return []
    found = _base_tasks(terms.base)
    known = [f"{name} {100 * found[name].accuracy:.1f} %" for name in tasks if name in found]
    return [f"The base scores: {', '.join(known)}."] if known else []


def _focus(design: Design, terms: Terms) -> tuple[Mapping[str, Sequence[str]], list[str]]:
    """The groups of a comparison, and the metrics that its answer is of, what was to be learnt first."""
    if unknown := [name for name in terms.learn if name not in design.tasks]:
        raise EvaluationError(f"--learn names tasks of all runs ({', '.join(design.tasks)}); got {', '.join(unknown)}")
    run = next(iter(next(iter(design.arms.values())).runs.values()))
    learnt = list(terms.learn) or [name for name in design.tasks if _is_of(str(run.config.get("data")), name)]
    others = [name for name in design.tasks if name not in learnt]
    if not learnt or not others:
        return {}, [AVERAGE if len(design.tasks) > 1 else design.tasks[0]]
    groups = {name: tasks for name, tasks in ((LEARNT, learnt), (OTHERS, others)) if len(tasks) > 1}
    return groups, [tasks[0] if len(tasks) == 1 else name for name, tasks in ((LEARNT, learnt), (OTHERS, others))]


def _is_of(data: str, task: str) -> bool:
    return data == task or data.startswith(f"{task}:")


def _first_seed(arms: Mapping[str, Arm]) -> tuple[list[Path], dict[Path, str]]:
    found: dict[Path, str] = {}
    for label, arm in arms.items():
        run: Run = next(iter(arm.runs.values()))
        found[run.folder] = label
    return list(found), found


def _notes(found: dict[str, Any]) -> list[str]:
    return [note for each in (found, found.get("nll", {})) for note in each.get("notes", [])]
