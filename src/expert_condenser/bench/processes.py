"""Several processes beside one, with as many threads each: `condenser bench train --processes 2`.

N processes share a training step by DDP over gloo, each with its own rows; one more trains alone in its turn. They take
turns in one run, so that a slow minute is slow for both.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from expert_condenser.bench.arms import arms_of
from expert_condenser.bench.benchmark import describe
from expert_condenser.bench.measure import timed
from expert_condenser.bench.workloads import Setting, TrainWork
from expert_condenser.errors import BenchmarkError
from expert_condenser.kernels.buffers import keep_freed_memory


def compare_processes(arm: str, setting: Setting, *, processes: int, threads: int, rounds: int) -> dict[str, Any]:
    """The report of one run: tokens per second of one process and of several, and the median ratio over rounds.

    Raises `BenchmarkError` where there are fewer than two processes, or the device is no CPU.
    """
    if processes < 2 or setting.device != "cpu":
        raise BenchmarkError(
            f"--processes compares two CPU processes or more with one; got {processes} on {setting.device}"
        )
    context = torch.multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes + 1), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(arm, setting, processes, threads, rounds, f"file://{Path(folder).absolute()}/store")
        running = [context.Process(target=_work, args=(rank, job, barrier, results)) for rank in range(-1, processes)]
        for process in running:
            process.start()
        found = dict(_next(results, running) for _ in range(2))
        for process in running:
            process.join()
    tokens = found[-1]["tokens"]
    one, several = found[-1]["seconds"], found[0]["seconds"]
    return {
        "workload": "train",
        **describe(setting),
        "threads": threads,
        "arm": arm,
        "processes": processes,
        "rounds": rounds,
        "one_process_tokens_per_s": tokens / statistics.median(one),
        "tokens_per_s": processes * tokens / statistics.median(several),
        "ratio": statistics.median(processes * a / b for a, b in zip(one, several, strict=True)),
        "seconds": {"one_process": one, "several": several},
    }


def _next(results: Any, running: list[Any]) -> tuple[int, dict[str, Any]]:
    """The next result; where a process ended without one, the others wait for it in vain."""
    while results.empty():
        if any(process.exitcode for process in running):
            for process in running:
                process.kill()
            raise BenchmarkError("a process of the benchmark ended with an error, which stands above")
        running[0].join(0.1)
    found: tuple[int, dict[str, Any]] = results.get()
    return found


class _Job(NamedTuple):
    """What every process is told."""

    arm: str
    setting: Setting
    processes: int
    threads: int
    rounds: int
    store: str
    """The URL of a file by which the processes find each other."""


def _work(rank: int, job: _Job, barrier: Any, results: Any) -> None:
    """One process; rank -1 is the one that is alone."""
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    if rank >= 0:
        torch.distributed.init_process_group("gloo", job.store, rank=rank, world_size=job.processes)
    setting = job.setting
    step = TrainWork(arms_of([job.arm])[job.arm], setting.shape.model(setting.device, setting.dtype), setting)
    if rank >= 0:
        # As transformers' Trainer has it without gradient checkpointing.
        step.model = DistributedDataParallel(step.model, find_unused_parameters=True)
    seconds = []
    for index in range(TrainWork.warm + job.rounds):
        for turn in (-1, 0)[:: -1 if index % 2 else 1]:
            barrier.wait()
            if min(rank, 0) == turn:
                spent = timed(step, setting.device)
                if index >= TrainWork.warm:
                    seconds.append(spent)
    barrier.wait()
    if rank <= 0:
        results.put((rank, {"tokens": step.tokens, "seconds": seconds}))
    if rank >= 0:
        torch.distributed.destroy_process_group()
