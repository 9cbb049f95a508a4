"""One look at a run: its files, how it stands, how fast it goes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expert_condenser.watch.pace import Pace, duration
from expert_condenser.watch.run_files import RunFiles, read_run, stamps
from expert_condenser.watch.standing import OVER, Standing, standing_of


@dataclass(frozen=True)
class Look:
    """What a view shows."""

    files: RunFiles
    standing: Standing
    pace: float | None
    """Steps a second."""
    left: float | None
    """Seconds to the last step."""

    def speed(self) -> list[str]:
        """The pace and the time left, for a person; nothing of a run that is over, or whose pace is not known."""
        if self.pace is None or self.standing.state in OVER:
            return []
        pace = f"{self.pace:.2f} steps/s" if self.pace >= 0.1 else f"{1 / self.pace:.0f} s a step"
        return [pace] if self.left is None else [pace, f"left: {duration(self.left)}"]


class Watcher:
    """Looks at one run again and again."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock, self._pace = folder, clock, Pace()
        self._stamps: object = None
        self._files: RunFiles

    def look(self) -> Look:
        """What the files say now."""
        if (now := stamps(self.folder)) != self._stamps or now is None:  # a long log takes a while to read
            self._stamps, self._files = now, read_run(self.folder)
        files = self._files
        self._pace.see(files)
        standing = standing_of(files, self._pace.between_entries(files), self._clock)
        return Look(files, standing, self._pace.per_second(), self._pace.left(files))
