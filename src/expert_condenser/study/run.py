"""Run a study: every cell that has no results yet, some at a time, with a table of where it stands."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
from expert_condenser.errors import EvaluationError, FailedRunError
from expert_condenser.evaluation.evaluate import check_mode
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.prompts import check_template
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.evaluation.settings import GENERATE, fingerprints
from expert_condenser.evaluation.tasks import load_tasks
from expert_condenser.ownership import ending_on_sigterm
from expert_condenser.study.cells import is_done_as_asked, recipe_of
from expert_condenser.study.folder import STUDY_KIND, check_inputs, claim
from expert_condenser.study.measures import check_measures
from expert_condenser.study.plan import Cell, Study, read_study
from expert_condenser.study.worker import run_cell
from expert_condenser.workfolder import WorkFolder

_PRELOADED = ["expert_condenser.study.worker"]
_PATIENCE = 10.0
"""Seconds in which a run that is asked to end can do so."""


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


def run_study(
    path: Path,
    root: Path,
    workers: int | None = None,
    show: Callable[[Progress, Cell], None] = lambda progress, cell: None,
) -> None:
    """Run what is missing of a study; `show` is called whenever a run has ended.

    Raises `EvaluationError` on bad input, and at the end `FailedRunError` if a run failed.
    """
    study = read_study(path)
    cells = [study.base_cell, *study.cells()]
    for cell in cells[1:]:
        recipe_of(cell, root)
    questions = _questions(study)
    check_inputs(study, cells, root)
    devices = _devices(workers)
    with ending_on_sigterm(), WorkFolder(root, STUDY_KIND) as place:
        claim(path, root)
        place.mark()
        progress = Progress(root, cells, questions, len(devices))
        _run_all(progress, devices, show)
    if progress.failed:
        logs = ", ".join(str((root / folder).with_suffix(".log")) for folder in progress.failed)
        raise FailedRunError(f"{len(progress.failed)} of {len(cells)} runs failed; see {logs}, then run this again")


def _run_all(progress: Progress, devices: Sequence[str | None], show: Callable[[Progress, Cell], None]) -> None:
    """Every cell that waits, one process each, as many at a time as there are devices; none outlives this function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    running: dict[Any, tuple[Cell, Any, str | None]] = {}
    free = list(devices)
    try:
        while progress.waiting() or running:
            while free and (queue := progress.waiting()):
                cell, device = queue[0], free.pop(0)
                process = context.Process(target=run_cell, args=(cell, progress.root, device, threads))
                process.start()
                progress.running[cell.folder] = time.monotonic()
                running[process.sentinel] = (cell, process, device)
            for sentinel in wait(list(running)):
                cell, process, device = running.pop(sentinel)
                process.join()
                free.append(device)
                progress.finish(cell, process.exitcode == 0)
                show(progress, cell)
    finally:
        _end([process for _, process, _ in running.values()])


def _end(processes: Sequence[Any]) -> None:
    """Ask processes to end, so that they leave their folders in order, and after a while make them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        process.kill()
        process.join()


def _questions(study: Study) -> dict[str, str]:
    """The fingerprints of what will be asked; raises before any run what would fail after the first one's training."""
    spec = study.evaluate
    Generation(batch_size=spec.batch_size, max_new_tokens=spec.max_new_tokens)
    tasks = load_tasks(spec.tasks, None if spec.data is None else Path(spec.data), spec.split)
    check_measures(study)
    for task in tasks:
        check_mode(spec.modes.get(task.name, GENERATE), [task], Generation(batch_size=spec.batch_size))
    if study.base.startswith((".", "/")) and not Path(study.base).is_dir():
        raise EvaluationError(f"the base model must exist, and there is no directory {study.base}; correct `base`")
    check_template(load_tokenizer(resolve_model(study.base)))
    return fingerprints(tasks)


def _devices(workers: int | None) -> list[str | None]:
    """A CUDA device per worker; on a CPU, None for each."""
    count = torch.cuda.device_count()
    if workers is not None and workers < 1:
        raise EvaluationError(f"--workers is 1 or more; got {workers}")
    if count:
        return [str(index % count) for index in range(workers or count)]
    return [None] * (workers or 1)
