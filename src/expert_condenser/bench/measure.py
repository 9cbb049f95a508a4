"""Time and peak memory of several ways to do the same work, in one process and in turns."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from expert_condenser.kernels.buffers import release

Step = Callable[[], object]
LEAST_ROUNDS = 2


@dataclass
class Measurement:
    """Seconds of every timed call, in order, and the peak memory of the untimed ones before, in MB."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range in seconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    def ratio_to(self, other: "Measurement") -> float:
        """Median over rounds of own over other seconds: a slow minute is slow for both."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def compare(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    seconds: float,
    device: str,
    warm: int = 1,
    advance: Callable[[int], None] = lambda rounds: None,
) -> dict[str, Measurement]:
    """Time all steps in turns, every other round backwards, at most `rounds` times and about `seconds` long.

    The first `warm` calls of each are not timed; their peak memory is measured. `rounds` is at least 2. `advance` is
    called with 1 after every round, when nothing is timed.
    """
    start = time.perf_counter()
    results = {name: Measurement() for name in steps}
    gc.collect()
    order = list(steps)
    for name in reversed(order):  # the last steps, products alone, come first and warm the libraries up
        results[name].peak_mb = peak_memory([steps[name]] * warm, device)
    begin = time.perf_counter()
    for index in range(rounds):
        spent = time.perf_counter() - start
        if index >= LEAST_ROUNDS and spent + (time.perf_counter() - begin) / index > seconds:
            break
        for name in order[:: -1 if index % 2 else 1]:
            results[name].seconds.append(timed(steps[name], device))
        advance(1)
    return results


def timed(step: Step, device: str) -> float:
    """Seconds of one call, with what it left running on the device."""
    synchronize(device)
    begin = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: str) -> None:
    """Wait for an accelerator."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory(calls: Sequence[Step], device: str) -> float | None:
    """Peak memory of some calls above what was in use before them, in MB; None where the system does not tell.

    On a CPU this is the resident set, whose peak Linux lets a process reset.
    """
    release()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        run_all(calls)
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
    if device != "cpu" or sys.platform != "linux":
        run_all(calls)
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run_all(calls)
        return None
    before = _resident("VmRSS")
    run_all(calls)
    return _resident("VmHWM") - before


def run_all(calls: Sequence[Step]) -> None:
    """One after the other."""
    for call in calls:
        call()


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def available_memory() -> float:
    """MB that the system can still give; infinite where it does not tell."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return float("inf")
    return next(int(line.split()[1]) / 1024 for line in path.read_text().splitlines() if line.startswith("MemAvail"))
