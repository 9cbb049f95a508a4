"""The files of one run that a page shows: its record, its log, its usage, its condensers and its recorded routing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from expert_condenser.analysis.dynamics import Dynamics, dynamics_of
from expert_condenser.errors import AnalysisError, DataError
from expert_condenser.files import read_json
from expert_condenser.methods.condenser import CONDENSERS
from expert_condenser.training.fixed_rows import ROUTING
from expert_condenser.training.record import METRICS, RUN, RunRecord


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds, read and checked."""

    label: str
    folder: Path
    record: RunRecord
    log: Dynamics | None
    """Curves and usage over all phases; None where nothing was logged."""
    condensers: dict[int, list[int]]
    """MoE layer, numbered from 0, -> its condensers."""
    routing: dict[str, dict[str, Tensor]]
    """Phase -> the tensors of its `routing.safetensors`, for the phases that have one."""


def read_files(folder: Path) -> RunFiles:
    """Read a run, finished or not; raises an `ExpertCondenserError` where it is none, or a file of it is damaged."""
    if not (folder / RUN).is_file():
        raise AnalysisError(_no_run(folder))
    record = RunRecord.read(folder / RUN)
    if not isinstance(record.config.get("model"), str):
        raise DataError(f"{folder / RUN} names the base as the option `model`; it has none: restore it")
    log = _log(folder) if _has_logged(folder) else None
    phases = dict.fromkeys([*(log.phases if log else ()), *record.phases])
    routing = {phase: _routing(path) for phase in phases if (path := folder / phase / ROUTING).is_file()}
    files = RunFiles(record.arm or record.method, folder, record, log, _condensers(folder / CONDENSERS), routing)
    _check_shapes(files)
    return files


def _no_run(folder: Path) -> str:
    inside = sorted(str(path.parent) for path in folder.glob("*/run.json"))[:4] if folder.is_dir() else []
    found = f"; it holds the runs {' '.join(inside)}: name them" if inside else ": name the output_dir of a training"
    return f"a report is of runs, folders with {RUN}, or of one study; {folder} has no {RUN}{found}"


def _log(folder: Path) -> Dynamics:
    try:
        return dynamics_of(f"run={folder}")
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{folder / METRICS} has phase and step of every log entry, and usage is of one model in all phases; "
            f"here they are not ({error!r}): restore them"
        ) from error


def _has_logged(folder: Path) -> bool:
    path = folder / METRICS
    return path.is_file() and '"loss"' in path.read_text(encoding="utf-8", errors="replace")


def _routing(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
        tokens, layers = found["tokens"].shape[0], found["layers"].shape[0]
        choices = {name: each for name, each in found.items() if name.endswith(".experts")}
        whole = all(each.ndim == 3 and tuple(each.shape[:2]) == (tokens, layers) for each in choices.values())
        if not tokens or found["row"].shape[0] != tokens or not choices or not whole:
            raise ValueError("its tensors are empty, or not of the same tokens and layers")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{path} is the routing that a training recorded, tokens (T,), row (T,), layers (L,), choices (T, L, S); "
            f"this one is damaged or none ({error}): restore or delete it"
        ) from error
    return found


def _condensers(path: Path) -> dict[int, list[int]]:
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        return {int(entry["layer"]): [int(i) for i in entry["condensers"]] for entry in content["layers"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} lists the condensers of every layer; this one does not ({error!r}): restore it"
        ) from error


def _check_shapes(files: RunFiles) -> None:
    counts = None if files.log is None else files.log.counts
    if counts is None:
        return
    bias = None if files.log is None else files.log.bias
    if counts.ndim != 3 or (bias is not None and bias.shape != counts.shape) or (counts < 0).any():
        raise DataError(
            f"the usage history of {files.folder} has counts from 0 on, (intervals, layers, experts), and a bias for "
            f"each; got {tuple(counts.shape)}: it is damaged, restore or delete it"
        )
    layers, experts = counts.shape[1:]
    if any(layer >= layers or max(ids, default=0) >= experts for layer, ids in files.condensers.items()):
        raise DataError(
            f"{files.folder / CONDENSERS} names experts that {layers} layers of {experts} do not have: it is of "
            "another run, restore or delete it"
        )


def check_no_double(folders: Sequence[Path]) -> None:
    """Raise `AnalysisError` where a run is named twice, whatever the words for it."""
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise AnalysisError(f"a report is of different runs; {folder} is there twice: leave it out once")
        seen[folder.resolve()] = folder


def check_one_base(runs: Sequence[RunFiles]) -> None:
    """Raise `AnalysisError` where runs were tuned from different bases: their experts are not the same ones."""
    bases: dict[Any, Path] = {}
    for run in runs:
        bases.setdefault(run.record.config.get("model"), run.folder)
    if len(bases) > 1:
        named = ", ".join(f"{folder} from {base}" for base, folder in bases.items())
        raise AnalysisError(f"a report is of runs of one base; got {named}: make a report of each")
