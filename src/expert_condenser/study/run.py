"""Run a study: every cell that has no results yet, some at a time, with a table of where it stands."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
from expert_condenser.errors import EvaluationError, FailedRunError
from expert_condenser.evaluation.evaluate import check_mode
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.prompts import check_template
from expert_condenser.evaluation.settings import GENERATE, fingerprints
from expert_condenser.evaluation.tasks import load_tasks
from expert_condenser.kernels.threads import threads_each
from expert_condenser.ownership import ending_on_sigterm
from expert_condenser.study.cells import recipe_of
from expert_condenser.study.folder import STUDY_KIND, check_inputs, claim
from expert_condenser.study.jobs import Jobs, run_in_jobs
from expert_condenser.study.measures import check_measures
from expert_condenser.study.plan import Cell, Study, read_study
from expert_condenser.study.progress import Progress
from expert_condenser.study.worker import run_cell
from expert_condenser.workfolder import WorkFolder

_PRELOADED = ["expert_condenser.study.worker"]
_PATIENCE = 60.0
"""Seconds in which a run that is asked to end can finish its step and save."""


def run_study(
    path: Path,
    root: Path,
    workers: int | None = None,
    show: Callable[[Progress, Cell], None] = lambda progress, cell: None,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
) -> None:
    """Run what is missing of a study; `show` is called whenever a run has ended.

    Without an `executor` every run is a process of this machine; with one (`jobs.EXECUTORS`) it is a job, and
    `executor_options` go over those of the study's file.
    Raises `EvaluationError` on bad input, and at the end `FailedRunError` if a run failed.
    """
    study = read_study(path)
    options = {**study.executor_options, **(executor_options or {})}
    jobs = Jobs(executor, options, root) if executor is not None else None
    if executor is None and executor_options:
        raise EvaluationError("executor_options are of an executor; add --executor local or slurm, or leave them out")
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
        if jobs is None:
            _run_all(progress, devices, show)
        else:
            run_in_jobs(jobs, progress, devices if executor == "local" else [None] * (workers or len(cells)), show)
    if progress.failed:
        logs = ", ".join(str((root / folder).with_suffix(".log")) for folder in progress.failed)
        raise FailedRunError(f"{len(progress.failed)} of {len(cells)} runs failed; see {logs}, then run this again")


def _run_all(progress: Progress, devices: Sequence[str | None], show: Callable[[Progress, Cell], None]) -> None:
    """Every cell that waits, one process each, as many at a time as there are devices; none outlives this function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    threads = threads_each(len(devices))
    running: dict[Any, tuple[Cell, Any, str | None]] = {}
    free = list(devices)
    try:
        while progress.waiting() or running:
            while free and (queue := progress.waiting()):
                cell, device = queue[0], free.pop(0)
                process = context.Process(target=run_cell, args=(cell, progress.root, device, threads))
                process.start()
                progress.start(cell)
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
