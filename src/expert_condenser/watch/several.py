"""A folder of several runs, a study's or a demo's: a line for each that works at this moment, and how many are done."""

import os
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from expert_condenser.errors import ExpertCondenserError
from expert_condenser.ownership import LOCK
from expert_condenser.study.plan import read_study
from expert_condenser.training.record import RUN
from expert_condenser.watch.look import Look, Watcher
from expert_condenser.watch.standing import State, is_owned

STUDY, RESULTS = "study.yaml", "results.json"
_DEPTH = 4
"""Folders below the one that is watched in which runs are looked for: `runs/ARM/POINT/seedN`."""

_MOST = 30
"""Runs that are shown where none works."""


class Group:
    """Looks at all runs below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._watchers: dict[Path, Watcher] = {}

    def working(self) -> list[Look]:
        """Those whose process runs, or cannot be seen from here; those that began and stopped are left out."""
        owned = [place for place in run_folders(self.folder) if is_owned(place)]
        self._watchers = {place: self._watchers.get(place) or Watcher(place) for place in owned}
        return [watcher.look() for watcher in self._watchers.values()]

    def shown(self) -> list[Look]:
        """Those that work; where nothing works here any more, those that changed last."""
        if found := self.working():
            return found
        began = [place for place in run_folders(self.folder) if (place / RUN).exists()]
        newest = sorted(began, key=lambda place: (place / RUN).stat().st_mtime)[-_MOST:]
        return [Watcher(place).look() for place in sorted(newest)]

    def is_over(self) -> bool:
        """Whether nothing works here any more."""
        return not is_owned(self.folder) and not any(map(is_owned, run_folders(self.folder)))

    def summary(self) -> str:
        """How many runs have their results, of how many."""
        done = sum((place / RESULTS).exists() for place in run_folders(self.folder))
        wanted = self._wanted()
        return f"{self.folder}: {done}{'' if wanted is None else f' of {wanted}'} runs have results"

    def _wanted(self) -> int | None:
        if not (self.folder / STUDY).exists():
            return None
        try:
            return len(read_study(self.folder / STUDY).cells())
        except ExpertCondenserError:  # its grid may be that of another study, which is not here
            return None

    def table(self) -> Table:
        """A line per run."""
        table = Table(title=self.summary(), caption=None if not self.is_over() else "nothing works here any more")
        for name in ("run", "phase", "step", "speed", "nll", "Gini", ""):
            table.add_column(name, justify="right" if name in ("step", "nll", "Gini") else "left", overflow="fold")
        for look in self.shown():
            files = look.files
            last = {name: f"{files.curve(name)[-1]:.3g}" if files.curve(name) else "" for name in ("nll", "usage_gini")}
            steps = f"{files.step} of {files.total_steps() or '?'}" if files.entries else ""
            name = str(files.folder.relative_to(self.folder))
            speed = ", ".join(look.speed())
            table.add_row(name, files.phase or "", steps, speed, last["nll"], last["usage_gini"], _short(look))
        return table


def _short(look: Look) -> str:
    """What a run does, in a word; a trained one that is still owned is being evaluated."""
    evaluating = look.standing.state is State.FINISHED and is_owned(look.files.folder)
    return "evaluating" if evaluating else look.standing.state.value


def run_folders(root: Path) -> Iterator[Path]:
    """Every run's folder below, and those that a process has only just locked; nothing within a run is looked at."""
    for place, folders, files in os.walk(root):
        folders.sort()
        here = Path(place)
        if here != root and (RUN in files or LOCK in files):
            folders.clear()
            yield here
        elif len(here.relative_to(root).parts) >= _DEPTH:
            folders.clear()
