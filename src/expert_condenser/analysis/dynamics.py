"""How runs trained: loss, gradient norm, bias and churn by step, several runs over each other (paper, Fig. 10).

Read from a run's files alone, finished or not: `metrics.jsonl`, and the usage history of every phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expert_condenser.errors import AnalysisError, DataError
from expert_condenser.files import is_file_name, is_number, local_path
from expert_condenser.functional.concentration import gini
from expert_condenser.training.history import USAGE_HISTORY, UsageHistory
from expert_condenser.training.log import read_entries
from expert_condenser.training.record import METRICS, RUN, RunRecord

LOGGED = ("nll", "grad_norm", "learning_rate", "bias_range", "route_churn", "condenser_gate_share", "expert_diversity")
"""What is read of a log entry; a method may have only some."""


@dataclass(frozen=True)
class Dynamics:
    """One run, with steps counted over all phases."""

    name: str
    base: str
    phases: dict[str, int]
    """The step at which each phase began."""
    steps: list[int]
    curves: dict[str, list[float | None]]
    """By name, a value for each of `steps`, or None where it was not logged."""
    usage_steps: list[int]
    counts: Int[Tensor, "N L E"] | None
    """Of every logged interval; None where the run kept no history."""
    bias: Float[Tensor, "N L E"] | None

    def gini(self) -> list[float]:
        """The mean over layers of the Gini index of every interval's usage."""
        return [] if self.counts is None else gini(self.counts).mean(1).tolist()


def dynamics_of(text: str) -> Dynamics:
    """Read a run by `FOLDER` or `NAME=FOLDER`; raises `AnalysisError` where it is none, or has logged nothing."""
    name, equals, path = text.partition("=")
    folder = local_path(path if equals else name)
    if not (folder / RUN).exists():
        raise AnalysisError(f"a run's folder has {RUN}; {folder} has none: name the output_dir of `condenser train`")
    record = RunRecord.read(folder / RUN)
    entries = _entries(folder / METRICS)
    if not entries:
        raise AnalysisError(f"{folder / METRICS} has no logged step yet: wait, or lower logging_steps")
    phases, shifted = _over_phases(entries)
    histories = {phase: _history(folder, phase) for phase in phases}
    found = [(phases[phase], history) for phase, history in histories.items() if history is not None]
    usage_steps = [start + step for start, history in found for step in history.steps]
    counts = [count for _, history in found for count in history.counts]
    biases = [bias for _, history in found for bias in history.biases]
    return Dynamics(
        name if equals else record.arm or record.method,
        record.config["model"],
        phases,
        [step for step, _ in shifted],
        {key: [entry.get(key) for _, entry in shifted] for key in LOGGED if any(key in entry for _, entry in shifted)},
        usage_steps,
        torch.stack(counts) if counts else None,
        None if not biases or any(bias is None for bias in biases) else torch.stack(biases),  # type: ignore[arg-type]
    )


def _entries(path: Path) -> list[dict[str, Any]]:
    """The logged steps; a last line that is being written is left out."""
    try:
        found = [entry for entry in read_entries(path) if "loss" in entry] if path.exists() else []
    except DataError as error:
        raise AnalysisError(str(error)) from error
    for entry in found:
        if strange := [key for key in LOGGED if not is_number(entry.get(key, 0.0)) and entry[key] is not None]:
            raise AnalysisError(f"{path} logs numbers; step {entry['step']} has {strange[0]} {entry[strange[0]]!r}")
    return found


def _over_phases(entries: Sequence[dict[str, Any]]) -> tuple[dict[str, int], list[tuple[int, dict[str, Any]]]]:
    phases: dict[str, int] = {}
    last, shifted = 0, []
    for entry in entries:
        start = phases.setdefault(entry["phase"], last)
        last = start + entry["step"]
        shifted.append((last, entry))
    return phases, shifted


def _history(folder: Path, phase: str) -> UsageHistory | None:
    """Of a phase: as it grows, or of an earlier release when it was done."""
    if not is_file_name(phase):  # it names a folder here
        raise AnalysisError(f"{folder / METRICS} names the phases of a method; got {phase[:60]!r}")
    places = (folder / phase / USAGE_HISTORY, folder / phase / "final" / USAGE_HISTORY)
    return next((UsageHistory.read(path) for path in places if path.exists()), None)


def check_together(runs: Sequence[Dynamics]) -> None:
    """Raise `AnalysisError` where runs are of different bases, or have one name."""
    if len(bases := {run.base: run.name for run in runs}) > 1:
        named = ", ".join(f"{name} from {base}" for base, name in bases.items())
        raise AnalysisError(f"curves of one base are drawn over each other; got {named}: draw them apart")
    names = [run.name for run in runs]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise AnalysisError(f"runs are told apart by name, and {', '.join(double)} is there twice; write NAME=FOLDER")
