"""What a page says: the answer, tables, figures and runs of a report, before any of it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expert_condenser.report.page.answers import Answer
from expert_condenser.report.page.figures import Figure
from expert_condenser.report.page.runs import RunFiles, check_one_base, read_files
from expert_condenser.report.page.tables import Table

SHOWN = 12
"""Runs whose experts a page shows at most."""


@dataclass(frozen=True)
class Report:
    """The content of one page."""

    title: str
    answer: Answer
    tables: list[Table]
    more: list[Table]
    """Tables that a reader opens."""
    runs: list[RunFiles]
    """Those whose experts are shown: one of every arm."""
    notes: list[str] = field(default_factory=list)
    front: Figure | None = None
    reproduce: dict[str, Any] | None = None
    """Of a study: its file and its command; what else is reproduced run by run."""


def shown_runs(folders: Sequence[Path], labels: Mapping[Path, str] | None = None) -> tuple[list[RunFiles], list[str]]:
    """The runs that a page shows, every one with a name of its own, and a note on those that it does not."""
    runs = [read_files(folder) for folder in folders[:SHOWN]]
    check_one_base(runs)
    named = [replace(run, label=(labels or {}).get(run.folder, run.label)) for run in runs]
    names = [run.label for run in named]
    named = [
        run if names.count(run.label) == 1 else replace(run, label=f"{run.label} ({run.folder.name})") for run in named
    ]
    left = [str(folder) for folder in folders[SHOWN:]]
    notes = [f"Experts are shown of {SHOWN} runs; name others by their folders to see them: {', '.join(left)}."]
    return named, notes if left else []
