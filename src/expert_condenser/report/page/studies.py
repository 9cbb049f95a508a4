"""The report of a study: its answer, its tables and its front, from the raw files of its runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expert_condenser.report.page.answers import (
    Answer,
    answer_of_comparison,
    answer_of_contrasts,
    answer_of_fronts,
)
from expert_condenser.report.page.figures import front_figure
from expert_condenser.report.page.recipes import reproduce_study
from expert_condenser.report.page.report import Report, shown_runs
from expert_condenser.report.page.tables import Table, comparison_tables
from expert_condenser.study.contrast_tables import contrast_cells, front_cells, front_notes
from expert_condenser.study.gather import Gathered, gather
from expert_condenser.study.plan import BEFORE
from expert_condenser.study.tables import compare, summary_cells

STUDY = "study.yaml"


def report_of_study(root: Path) -> Report:
    """Read a study; raises `EvaluationError` where no seed of it is whole, or its runs cannot be compared."""
    gathered = gather(root)
    found = compare(gathered)
    first = [arm.runs[gathered.design.seeds[0]] for arm in gathered.design.arms.values()]
    # Of a grid the first point of every arm: all points of all arms are more than a page can show.
    points = {run.name.partition(" ")[0]: run.folder for run in reversed(first)}
    runs, left_out = shown_runs([points[arm] for arm in gathered.labels])
    focus = [gathered.study.learnt, *([BEFORE] if BEFORE in gathered.study.named_groups else [])]
    of_focus, more = comparison_tables(found, focus) if "rows" in found else ([], [])
    return Report(
        title=root.resolve().name,
        answer=_answer(found, focus),
        tables=[*_tables(gathered, found), *of_focus],
        more=more,
        notes=[*_notes(gathered, found), *left_out],
        front=front_figure(found["fronts"]) if "fronts" in found else None,
        runs=runs,
        reproduce=reproduce_study(root),
    )


def _answer(found: dict[str, Any], focus: Sequence[str]) -> Answer:
    """What the study asks for first: its contrasts are its questions, then its fronts, then arm by arm."""
    sentences = answer_of_contrasts(found.get("contrasts", []))
    sentences += answer_of_fronts(found["fronts"]) if "fronts" in found else []
    if "rows" in found:
        by_arm = answer_of_comparison(found, focus)
        sentences = [by_arm.headline, *sentences, *by_arm.details]
    return Answer(sentences[0], sentences[1:])


def _tables(gathered: Gathered, found: dict[str, Any]) -> list[Table]:
    tables = [Table("Summary; mean ± standard deviation over seeds", *summary_cells(gathered))]
    if "fronts" in found:
        tables.append(Table(*front_cells(found["fronts"], len(found["seeds"]))))
    if "contrasts" in found:
        tables.append(Table(*contrast_cells(found["contrasts"])))
    return tables


def _notes(gathered: Gathered, found: dict[str, Any]) -> list[str]:
    seeds = ", ".join(map(str, found["seeds"]))
    head = f"{gathered.finished} of {gathered.planned} runs are done; compared are the seeds {seeds}."
    rules = front_notes(found["fronts"], len(found["seeds"])) if "fronts" in found else []
    notes = [note for each in (found, found.get("nll", {})) for note in each.get("notes", [])]
    return [head, *(rule for rule in rules if rule), *notes]
