"""One run of a study, in a process of its own: train, evaluate, note the cost, keep what tables need."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
import transformers

from expert_condenser.checkpoint.guard import is_closed, newest_whole
from expert_condenser.checkpoint.interpolate import save_interpolated
from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
from expert_condenser.errors import TrainingError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.record import ITEMS
from expert_condenser.evaluation.settings import SETTINGS, Asking
from expert_condenser.evaluation.tasks import load_tasks
from expert_condenser.kernels.buffers import keep_freed_memory
from expert_condenser.methods import METHODS
from expert_condenser.ownership import Lock, ending_on_sigterm, wait_for_end
from expert_condenser.study.cells import recipe_of
from expert_condenser.study.cost import FlopCounter, peak_memory
from expert_condenser.study.folder import STUDY_KIND
from expert_condenser.study.measures import MEASURES, measure
from expert_condenser.study.plan import Cell
from expert_condenser.training.fixed_rows import ROUTING
from expert_condenser.training.folder import annotate, check_same_run
from expert_condenser.training.history import USAGE_HISTORY
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.record import RUN, RunRecord
from expert_condenser.training.run import train
from expert_condenser.workfolder import WorkFolder

BETWEEN = "interpolated"
"""The folder of a run's model on the way from the base."""
_PATIENCE = 60.0


def run_cell(cell: Cell, root: Path, device: str | None, threads: int | None) -> None:
    """Run one cell to its `results.json`; what it prints goes to `seedN.log` beside its folder. An error exits with 1.

    `device` is the one CUDA device that the process sees, `threads` what torch computes with; None leaves either as it
    is.
    """
    _end_with_parent()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if threads is not None:
        torch.set_num_threads(threads)
    if not torch.accelerator.is_available():
        keep_freed_memory()  # of this process alone, which runs one cell and ends
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    folder = root / cell.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with ending_on_sigterm():
                _run(cell, root)
        except BaseException as error:
            traceback.print_exc()
            raise SystemExit(1) from error
    log.unlink(missing_ok=True)


def _run(cell: Cell, root: Path) -> None:
    folder = root / cell.folder
    wait_for_end(folder, _PATIENCE)  # of the run of a study that was killed a moment ago: it is saving
    if cell.seed is None:
        with WorkFolder(folder, STUDY_KIND):
            _evaluate(cell, folder, Path(resolve_model(cell.study.base)))
            if not cell.study.keep_models:
                _delete_answers(folder)  # and no model: a base may lie here
        return
    config = recipe_of(cell, root)
    if not (folder / "model").exists() or RunRecord.read(folder / RUN).cost is None:  # the cost is noted last
        _train(cell, config)
    with Lock(folder, STUDY_KIND.name):
        annotate(folder, interpolated=cell.interpolated)
        _evaluate(cell, folder, _result_of(cell, folder))
        if not cell.study.keep_models:
            keep_results(folder, METHODS[config.run.method].phases)


def _evaluate(cell: Cell, folder: Path, path: Path) -> None:
    """The study's tasks on one model; `results.json` goes to `folder`."""
    spec = cell.study.evaluate
    tokenizer = load_tokenizer(path)
    tasks = load_tasks(spec.tasks, None if spec.data is None else Path(spec.data), spec.split)
    generation = Generation(batch_size=spec.batch_size, max_new_tokens=spec.max_new_tokens)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    measures = measure(cell.study, path, tokenizer, folder, device)
    backend = LocalBackend(path, tokenizer, device=device)
    asking = Asking(modes=spec.modes, measures=measures)
    evaluate(backend, tokenizer, tasks, folder, generation, label=cell.label, asking=asking)


def _result_of(cell: Cell, folder: Path) -> Path:
    """The model that is evaluated: what was trained, or what lies between the base and that."""
    trained, between = folder / "model", folder / BETWEEN
    if cell.interpolated is None:
        return trained
    shutil.rmtree(between, ignore_errors=True)  # nothing says whether an old one is whole
    save_interpolated(cell.study.base, str(trained), cell.interpolated, between)
    return between


def _train(cell: Cell, config: Recipe) -> None:
    """Train from the start, or from where a killed run of this study was."""
    folder = Path(config.trainer.output_dir)
    phases = config.phases
    started = (folder / RUN).exists()
    came_far = started and any(
        is_closed(folder / phase / "final") or newest_whole(folder / phase)[0] is not None for phase in phases
    )
    # What came nowhere may be of another recipe, if the study was edited since, and of what was finished the study has
    # deleted the weights: both start again.
    resume = started and (came_far or (_is_same_run(folder, config) and not RunRecord.read(folder / RUN).finished))
    flops = FlopCounter()
    wall, busy = time.perf_counter(), time.process_time()
    train(config.going_on(resume=resume, overwrite=started and not resume), callbacks=[flops])
    steps = [int(phase["steps"]) for phase in RunRecord.read(folder / RUN).phases.values()]
    whole = len(flops.per_step) == len(steps)
    cost = {
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
        "flops": sum(map(int.__mul__, flops.per_step, steps)) if whole else None,
        "peak_mb": round(peak_memory()),
        "resumed": came_far,
    }
    annotate(folder, arm=cell.label, cost=cost)


def _is_same_run(folder: Path, config: Recipe) -> bool:
    try:
        check_same_run(RunRecord.read(folder / RUN), config)
    except TrainingError:
        return False
    return True


def keep_results(folder: Path, phases: Sequence[str]) -> None:
    """Delete weights and answers of a finished run: `run.json`, `results.json`, the log, usage and routing stay."""
    for phase in phases:
        _keep_recorded(folder / phase)
    for name in ("model", "adapter", BETWEEN):
        shutil.rmtree(folder / name, ignore_errors=True)
    _delete_answers(folder)


def _keep_recorded(phase: Path) -> None:
    """Delete a phase but for the usage and the routing that it recorded, which reports show."""
    for path in phase.iterdir() if phase.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (USAGE_HISTORY, ROUTING):
            path.unlink(missing_ok=True)


def _delete_answers(folder: Path) -> None:
    for name in (ITEMS, SETTINGS, MEASURES):
        (folder / name).unlink(missing_ok=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended: nobody would collect its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
