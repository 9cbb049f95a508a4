"""A study over a cluster: every run is a job of its own, through submitit (`--executor slurm`, or `local` to try it).

DIR/jobs/jobs.json      the newest job of every run on the cluster: the next start finds those that still run
DIR/jobs/               beside it submitit's files: scripts, what a job printed, and the call that it made
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.files import read_json, write_json
from expert_condenser.kernels.threads import threads_each
from expert_condenser.ownership import LOCK, Owner, end_with
from expert_condenser.study.plan import Cell
from expert_condenser.study.progress import Progress
from expert_condenser.study.worker import run_cell

logger = logging.getLogger(__name__)
EXECUTORS = ("local", "slurm")
RECORD = "jobs.json"
FORMAT_VERSION = 1
_GENERIC = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "name"}
"""Options that submitit has for every cluster; those of one alone have its name in front."""
_LASTING = 7 * 24 * 60
"""Minutes that a job of this machine may take; submitit's own default is two."""
_POLL = 0.5
"""Seconds between two looks at the jobs. Slurm itself is asked less often: submitit keeps its answers."""
_PATIENCE = 60.0
"""Seconds in which jobs that are cancelled can finish their step and save."""
_NONE_SUCH = "Invalid job id"
"""What `squeue` says of a job that ended some minutes ago."""


@dataclass
class JobsRecord:
    """`jobs.json`: by the folder of a run, the id of its newest job."""

    ids: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, path: Path) -> "JobsRecord":
        """An empty one where there is no file. Raises `DataError` on a file of another kind."""
        content = read_json(path) if path.exists() else asdict(cls())
        ids = content.get("ids") if isinstance(content, dict) else None
        right = isinstance(ids, dict) and all(isinstance(each, str) for each in ids.values())
        if not right or content != {"ids": ids, "format_version": FORMAT_VERSION}:
            raise DataError(f"{path} is a record of jobs, format {FORMAT_VERSION}; got {content!r}; delete it")
        return cls(**content)


class Jobs:
    """What runs the cells of a study as jobs, and what it knows of those of earlier starts."""

    def __init__(self, kind: str, options: Mapping[str, Any], root: Path) -> None:
        """Raises `EvaluationError` on an option that submitit does not take, or where there is no such cluster."""
        if kind not in EXECUTORS:
            raise EvaluationError(f"an executor is one of {', '.join(EXECUTORS)}; got {kind!r}")
        if kind == "slurm" and not {"timeout_min", "time"} & options.keys():
            raise EvaluationError(
                "a job of Slurm has a time limit, which a study does not guess; set it: --executor_options "
                "timeout_min=120"
            )
        self.kind, self.options, self.root = kind, dict(options), root
        self.folder = (root / "jobs").absolute()
        self._executor = self._made()
        self._record = JobsRecord.read(self.folder / RECORD)

    def _made(self) -> Any:
        import submitit

        named = {
            name if name in _GENERIC else f"slurm_{name.removeprefix('slurm_')}": value
            for name, value in self.options.items()
        }
        try:
            executor = submitit.AutoExecutor(self.folder, cluster=self.kind)
            executor.update_parameters(**{"name": "condenser-study", "timeout_min": _LASTING, **named})
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:  # all that submitit raises
            raise EvaluationError(f"submitit takes no such jobs: {error}") from error
        return executor

    def submit(self, cell: Cell, device: str | None, threads: int | None) -> Any:
        """Send a run to the cluster; a lock that its ended job left on another machine is removed."""
        if str(cell.folder) in self._record.ids:
            _unlock(self.root / cell.folder)
        parent = Owner.here("study") if self.kind == "local" else None
        job = self._executor.submit(run_job, cell, self.root.absolute(), device, threads, parent)
        if self.kind == "slurm":
            self._record.ids[str(cell.folder)] = job.job_id
            write_json(self.folder / RECORD, asdict(self._record))
        return job

    def still_running(self, cell: Cell) -> Any:
        """The job of an earlier start that still works on this run, or waits to; None where there is none."""
        if self.kind != "slurm" or str(cell.folder) not in self._record.ids:
            return None
        import submitit

        job: Any = submitit.SlurmJob(self.folder, self._record.ids[str(cell.folder)])
        return job if _is_queued(job.job_id) else None


def run_in_jobs(
    jobs: Jobs, progress: Progress, places: Sequence[str | None], show: Callable[[Progress, Cell], None]
) -> None:
    """Every cell that waits, one job each, as many at a time as there are places; none outlives an interruption."""
    threads = threads_each(len(places)) if jobs.kind == "local" else None
    free = list(places)
    running: list[tuple[Cell, Any, str | None]] = []
    try:
        for cell in progress.waiting():
            if (job := jobs.still_running(cell)) is not None:
                progress.start(cell)
                running.append((cell, job, None))
        while progress.waiting() or running:
            while free and (queue := progress.waiting()):
                device = free.pop(0)
                running.append((queue[0], jobs.submit(queue[0], device, threads), device))
                progress.start(queue[0])
            for entry in [entry for entry in running if entry[1].done()]:
                cell, job, device = entry
                running.remove(entry)
                free.append(device)
                progress.finish(cell, _succeeded(job))
                show(progress, cell)
            time.sleep(_POLL)
    finally:
        _cancel([job for _, job, _ in running])


def run_job(cell: Cell, root: Path, device: str | None, threads: int | None, parent: Owner | None) -> bool:
    """A job: one run of the study, in the process that the cluster started; returns whether it has its results."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit passes over it, and a run ends in order
    if (newer := _newer_job(cell, root)) is not None:
        logger.warning(f"{cell.folder} is the run of job {newer}, which a later start has sent")
        return False
    if parent is not None:
        end_with(parent)
    try:
        run_cell(cell, root, device, threads)
    except SystemExit:  # of which submitit would leave no word
        return False
    return True


def _is_queued(job_id: str) -> bool:
    """Whether a job waits or runs, by the controller; the accounting, which submitit asks, learns of it seconds later.

    Raises `EvaluationError` where that cannot be known: the run might be sent a second time.
    """
    said = subprocess.run(["squeue", "-h", "-j", job_id, "-o", "%T"], check=False, capture_output=True, text=True)
    if said.returncode and _NONE_SUCH not in said.stderr:
        raise EvaluationError(f"squeue says whether job {job_id} still runs; it failed: {said.stderr.strip()}")
    return bool(said.stdout.strip())


def _newer_job(cell: Cell, root: Path) -> str | None:
    """The job that has this run by the record, where that is not the one of this process."""
    own = os.environ.get("SLURM_JOB_ID")
    newest = JobsRecord.read(root / "jobs" / RECORD).ids.get(str(cell.folder))
    # A job may begin before the study has noted it: what is noted then is an older one.
    return newest if own and newest and int(newest) > int(own) else None


def _succeeded(job: Any) -> bool:
    """What `run_job` returned; a job that was killed returned nothing."""
    return job.exception() is None and bool(job.result())


def _cancel(jobs: Sequence[Any]) -> None:
    for job in jobs:
        job.cancel(check=False)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and not all(job.done() for job in jobs):
        time.sleep(_POLL)


def _unlock(folder: Path) -> None:
    """Remove the lock of a process on another machine: the job that it was of has ended, and the study has its own."""
    path = folder / LOCK
    if path.exists() and Owner.read(path).is_alive() is None:
        path.unlink()
