"""Whether a run trains, waits, is silent, stopped or finished: told from its lock, its record and the files' times."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from expert_condenser.errors import DataError
from expert_condenser.ownership import LOCK, Owner
from expert_condenser.training.record import METRICS, RUN
from expert_condenser.watch.pace import duration
from expert_condenser.watch.run_files import RunFiles

_PATIENCE = 60.0
"""Seconds without a sign before a run is called silent, where its own pace does not say more."""
_USUAL = 10
"""Times the usual time between two log entries before it is."""
_LOADING = 600.0
"""The same before the first entry: a model is loaded, and the data read."""


class State(Enum):
    """What a run does."""

    NOT_BEGUN = "has not begun"
    LOADING = "loading"
    TRAINING = "training"
    SILENT = "silent"
    STOPPED = "stopped"
    FINISHED = "finished"


OVER = (State.STOPPED, State.FINISHED)
"""Nothing more is to come, until somebody starts the run again."""


@dataclass(frozen=True)
class Standing:
    """What a run does, and a sentence about it."""

    state: State
    text: str


def standing_of(files: RunFiles, usual: float | None = None, clock: Callable[[], float] = time.time) -> Standing:
    """How a run stands; `usual` is how many seconds it takes between two log entries."""
    if files.record is not None and files.record.finished:
        if _begins_anew(files.folder):
            return Standing(State.LOADING, "loading: a new run begins over the finished one, whose numbers these are")
        return Standing(State.FINISHED, f"finished; the result is {files.folder / 'model'}")
    owner, readable = _owner(files.folder)
    alive = owner.is_alive() if owner is not None else (None if not readable else False)
    if alive is False:
        return _without_process(files)
    where = "" if alive else " (on another machine or in another container: its process cannot be seen from here)"
    quiet = clock() - last_sign(files.folder)
    patience = _LOADING if not files.entries else max(_PATIENCE, _USUAL * (usual or 0))
    if quiet > patience:
        return Standing(State.SILENT, f"silent for {duration(quiet)}: its process runs and writes nothing{where}")
    if not files.entries:
        return Standing(State.LOADING, f"loading the model and the data{where}")
    return Standing(State.TRAINING, f"training{where}")


def _begins_anew(folder: Path) -> bool:
    """Whether a process took the folder after its run was finished; a study that evaluates writes `run.json` anew."""
    try:
        return is_owned(folder) and (folder / LOCK).stat().st_mtime > (folder / RUN).stat().st_mtime
    except OSError:
        return False


def _without_process(files: RunFiles) -> Standing:
    if files.record is None and not files.entries:
        return Standing(State.NOT_BEGUN, f"waiting: no run has begun in {files.folder}")
    step = f"at step {files.step}" if files.entries else "before its first logged step"
    return Standing(State.STOPPED, f"stopped {step}: no process works there; condenser train --resume goes on with it")


def _owner(folder: Path) -> tuple[Owner | None, bool]:
    """Who works in a folder, and whether that could be read: a lock is there before its content is."""
    path = folder / LOCK
    try:
        return (Owner.read(path), True) if path.exists() else (None, True)
    except DataError:
        return None, not path.exists()


def last_sign(folder: Path) -> float:
    """When the run last wrote anything that is looked at; 0 where there is nothing."""
    times = [0.0]
    for path in (folder / LOCK, folder / RUN, folder / METRICS, *folder.glob("*/checkpoint-*")):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # gone since: an old checkpoint, say
            continue
    return max(times)


def is_owned(folder: Path) -> bool:
    """Whether a process works in a folder, or one that cannot be seen from here may."""
    owner, readable = _owner(folder)
    return not readable or (owner is not None and owner.is_alive() is not False)
