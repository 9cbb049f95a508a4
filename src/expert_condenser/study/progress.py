"""Where a study stands: its cells that are done, run, wait or failed, and how long one takes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.study.cells import is_done_as_asked
from expert_condenser.study.plan import Cell


class Progress:
    """Where a study stands: which cells are done, run, failed; how long one takes."""

    def __init__(self, root: Path, cells: Sequence[Cell], questions: Mapping[str, str], workers: int) -> None:
        self.root, self.cells, self.workers = root, cells, workers
        self.done = {cell.folder for cell in cells if is_done_as_asked(root, cell, questions)}
        self.failed: dict[Path, Cell] = {}
        self.running: dict[Path, float] = {}
        self.seconds: list[float] = []

    def waiting(self) -> list[Cell]:
        """Cells still to run."""
        return [c for c in self.cells if c.folder not in self.done | self.failed.keys() | self.running.keys()]

    def start(self, cell: Cell) -> None:
        """Note that a cell runs."""
        self.running[cell.folder] = time.monotonic()

    def finish(self, cell: Cell, succeeded: bool) -> None:
        """Note how a cell ended."""
        seconds = time.monotonic() - self.running.pop(cell.folder)
        if succeeded:
            self.done.add(cell.folder)
            self.seconds.append(seconds)
        else:
            self.failed[cell.folder] = cell

    def left(self) -> str:
        """Time left, from the mean of the cells so far."""
        if not self.seconds:
            return "unknown"
        work = mean(self.seconds) * (len(self.waiting()) + 0.5 * len(self.running)) / self.workers
        return f"{work / 60:.0f} min"

    def summary(self) -> str:
        """Where it stands, in a line."""
        return f"{len(self.done)} of {len(self.cells)} runs done, {len(self.running)} running, left: {self.left()}"

    def rows(self) -> list[list[str]]:
        """Of every arm: its name, runs done, runs failed, and the mean accuracy of the first task so far."""
        first, found = self.cells[0].study.first_task, []
        for label in dict.fromkeys(cell.label for cell in self.cells):
            own = [cell for cell in self.cells if cell.label == label]
            done = [cell for cell in own if cell.folder in self.done]
            scores = [accuracy(self.root / cell.folder, first) for cell in done]
            failed = sum(cell.folder in self.failed for cell in own)
            mean_so_far = f"{100 * mean(scores):.1f}" if scores else ""
            found.append([label, f"{len(done)}/{len(own)}", str(failed or ""), mean_so_far])
        return found


def accuracy(folder: Path, task: str) -> float:
    """A task's accuracy in a run's `results.json`."""
    share: float = Results.read(folder / RESULTS).tasks[task]["accuracy"]
    return share
