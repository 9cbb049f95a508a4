"""How fast a run goes and how long it will take: from the steps that were seen, and the times of its files."""

from collections import deque
from datetime import datetime
from pathlib import Path

from expert_condenser.errors import DataError
from expert_condenser.ownership import LOCK, Owner
from expert_condenser.training.record import METRICS, RUN
from expert_condenser.watch.run_files import RunFiles

_SEEN = 20
"""Log entries that the pace is taken over."""


class Pace:
    """The pace of one run; `see` is called after every look."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_SEEN)

    def see(self, files: RunFiles) -> None:
        """Note when the last step was logged; before the first look, the time at which the phase began."""
        if not files.entries:
            return
        if self._seen and files.step < self._seen[-1][1]:  # a resume took up an earlier checkpoint, or a new run began
            self._seen.clear()
        if not self._seen:
            self._seen.extend(_beginning(files))
        if not self._seen or files.step > self._seen[-1][1]:
            self._seen.append((_time(files.folder / METRICS), files.step))

    def per_second(self) -> float | None:
        """Steps a second; None where two moments are not known yet."""
        (first, before), (last, after) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (after - before) / (last - first) if last > first else None

    def between_entries(self, files: RunFiles) -> float | None:
        """Seconds between two log entries at this pace."""
        pace, steps = self.per_second(), files.steps
        return (steps[-1] - steps[-2]) / pace if pace and len(steps) > 1 and steps[-1] > steps[-2] else None

    def left(self, files: RunFiles) -> float | None:
        """Seconds to the last step."""
        pace, total = self.per_second(), files.total_steps()
        return (total - files.step) / pace if pace and total is not None else None


def _beginning(files: RunFiles) -> list[tuple[float, int]]:
    """When the last phase began, at which step: `run.json` is written then, but not by a process that resumes."""
    written = _time(files.folder / RUN)
    if files.phase is None or written < _owned_since(files.folder) or written >= _time(files.folder / METRICS):
        return []
    return [(written, files.phases[files.phase])]


def _owned_since(folder: Path) -> float:
    try:
        return datetime.fromisoformat(Owner.read(folder / LOCK).since).timestamp()
    except (DataError, ValueError):  # nobody's, or a lock that is being written
        return 0.0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a folder that is being replaced
        return 0.0


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
