"""What the files of a run say at this moment: the log, the last interval of the usage, who is a condenser.

The run writes while they are read. A line or a file that cannot be read is left out and named; nothing here fails.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from expert_condenser.errors import DataError
from expert_condenser.files import read_json
from expert_condenser.training.history import USAGE_HISTORY, UsageHistory
from expert_condenser.training.record import METRICS, RUN, RunRecord

CONDENSERS = "condensers.json"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """The usage between two logged steps."""

    step: int
    """Over all phases, at the interval's end."""
    counts: Int[Tensor, "L E"]
    bias: Float[Tensor, "L E"] | None


@dataclass(frozen=True)
class RunFiles:
    """One look at a run."""

    folder: Path
    record: RunRecord | None
    """None where the run has not begun, or `run.json` cannot be read."""
    entries: Sequence[Entry]
    """The logged steps, in order."""
    steps: Sequence[int]
    """Of every entry, counted over all phases."""
    phases: dict[str, int]
    """The step at which each phase began."""
    usage: Interval | None
    condensers: dict[int, list[int]]
    """`{layer index: expert ids}`."""
    unreadable: Sequence[str]
    """What was left out, for a person."""

    @property
    def phase(self) -> str | None:
        """The phase of the last logged step."""
        return self.entries[-1]["phase"] if self.entries else None

    @property
    def step(self) -> int:
        """The last logged step, over all phases."""
        return self.steps[-1] if self.steps else 0

    def points(self, name: str) -> list[tuple[int, float]]:
        """A number of the log by step, where it was logged."""
        entries = zip(self.steps, self.entries, strict=True)
        return [(step, entry[name]) for step, entry in entries if isinstance(entry.get(name), int | float)]

    def curve(self, name: str) -> list[float]:
        """Its values alone."""
        return [value for _, value in self.points(name)]

    def total_steps(self) -> int | None:
        """How many steps the whole run takes; by the log's epochs, about. None where neither says it."""
        config = {} if self.record is None else self.record.config
        if config.get("max_steps", -1) > 0:
            return int(config["max_steps"])
        epochs, wanted = self.curve("epoch"), config.get("num_train_epochs")
        if not epochs or not epochs[-1] or not wanted:
            return None
        return round(self.entries[-1]["step"] / epochs[-1] * wanted)


def read_run(folder: Path) -> RunFiles:
    """One look at a run's folder, which may not be there yet."""
    unreadable: list[str] = []
    record = _record(folder / RUN, unreadable)
    entries = _entries(folder / METRICS, unreadable)
    phases: dict[str, int] = {}
    steps: list[int] = []
    for entry in entries:
        start = phases.setdefault(entry["phase"], steps[-1] if steps else 0)
        steps.append(start + entry["step"])
    usage = _interval(folder, entries[-1]["phase"], phases, unreadable) if entries else None
    return RunFiles(folder, record, entries, steps, phases, usage, _condensers(folder, unreadable), unreadable)


def stamps(folder: Path) -> list[tuple[str, int, int]] | None:
    """The size and time of every file that is read: as long as nothing was written, the same. None where one goes."""
    paths = [folder / name for name in (RUN, METRICS, CONDENSERS)] + list(folder.glob(f"*/{USAGE_HISTORY}"))
    try:
        found = [(str(path), path.stat()) for path in paths if path.exists()]
    except OSError:
        return None
    return [(name, status.st_mtime_ns, status.st_size) for name, status in found]


def _record(path: Path, unreadable: list[str]) -> RunRecord | None:
    try:
        return RunRecord.read(path) if path.exists() else None
    except DataError as error:
        unreadable.append(str(error))
        return None


def _entries(path: Path, unreadable: list[str]) -> list[Entry]:
    """The logged steps; a last line without an end is being written, and no fault."""
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        if path.exists():
            unreadable.append(f"{path.name}: {error}")
        return []
    found, wrong = [], 0
    for line in lines:
        entry = _entry(line)
        if entry is None:
            wrong += line.endswith("\n")
        elif "loss" in entry:
            found.append(entry)
    if wrong:
        unreadable.append(f"{path.name}: {wrong} of {len(lines)} lines are no log entries, and are left out")
    return found


def _entry(line: str) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("phase"), str) and isinstance(entry.get("step"), int)
    return entry if whole else None


def _interval(folder: Path, phase: str, phases: Mapping[str, int], unreadable: list[str]) -> Interval | None:
    """The last one of a phase, from the file that grows, or in what the phase left."""
    for path in (folder / phase / USAGE_HISTORY, folder / phase / "final" / USAGE_HISTORY):
        try:
            history = UsageHistory.read(path) if path.exists() else None
        except DataError as error:
            unreadable.append(str(error))
            continue
        if history is not None and history.steps:
            return Interval(phases[phase] + history.steps[-1], history.counts[-1], history.biases[-1])
    return None


def _condensers(folder: Path, unreadable: list[str]) -> dict[int, list[int]]:
    path = folder / CONDENSERS
    if not path.exists():
        return {}
    try:
        return {int(layer["layer"]): [int(i) for i in layer["condensers"]] for layer in read_json(path)["layers"]}
    except (DataError, KeyError, TypeError, ValueError) as error:
        unreadable.append(f"{CONDENSERS} cannot be read ({error})")
        return {}
