"""Usage that somebody counted: files of `analyze usage`, of a training, and the records published with ESFT."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expert_condenser.analysis.usage import ExpertUsage
from expert_condenser.errors import AnalysisError, DataError
from expert_condenser.files import read_json
from expert_condenser.training.history import UsageHistory

_NEEDED = ("layers", "num_experts", "top_k", "selection_counts")


def read_usage(path: Path, name: str | None = None) -> ExpertUsage:
    """Read a usage file; numbers are taken as they stand, published ones being rounded.

    JSON is a record `{layers, num_experts, top_k, selection_counts (L, E), top_k_gate_mass}`; `.safetensors` is a
    training's history, whose intervals are summed. Raises `AnalysisError` where the file is neither.
    """
    if not path.is_file():
        raise AnalysisError(f"{path} must be a usage file, and there is none; `analyze usage` writes one per model")
    if path.suffix == ".safetensors":
        return _of_history(path, name or path.parent.name)
    content = read_json(path)
    if not isinstance(content, dict) or (missing := [key for key in _NEEDED if key not in content]):
        lacking = ", ".join(missing) if isinstance(content, dict) else "every key"
        raise AnalysisError(f"a usage file has {', '.join(_NEEDED)}; {path} lacks {lacking}: it is another file")
    if (version := content.get("format_version", 1)) != 1:
        raise AnalysisError(f"{path} has format_version {version!r}, and this release reads 1; update expert-condenser")
    return _of_record(path, content, name or path.stem)


def _of_record(path: Path, content: dict[str, Any], name: str) -> ExpertUsage:
    layers, condensers = content["layers"], content.get("condensers", {})
    numbers = [content["num_experts"], content["top_k"], *(layers if isinstance(layers, list) else [None])]
    if any(type(number) is not int or number < 0 for number in numbers) or not 1 <= content["top_k"] <= numbers[0]:
        raise AnalysisError(
            f"{path} has layers, a list of depths, num_experts, and top_k up to it; got "
            f"{ {key: content[key] for key in _NEEDED[:3]} }"
        )
    if not _are_condensers(condensers):
        raise AnalysisError(f"{path}: condensers are expert ids by layer; got {condensers!r}")
    shape = len(layers), content["num_experts"]
    mass = content.get("top_k_gate_mass")
    return ExpertUsage(
        name,
        tuple(layers),
        content["top_k"],
        _table(path, "selection_counts", content["selection_counts"], shape),
        None if mass is None else _table(path, "top_k_gate_mass", mass, shape, torch.float64),
        {int(layer): ids for layer, ids in condensers.items()},
        content.get("task"),
    )


def _are_condensers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        layer.isdecimal() and isinstance(ids, list) and all(type(id_) is int for id_ in ids)
        for layer, ids in value.items()
    )


def _table(path: Path, key: str, rows: Any, shape: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    try:
        table = torch.tensor(rows, dtype=dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch raises them all on no such table
        raise AnalysisError(f"{path}: {key} is a row of numbers for each layer; {error}") from error
    if tuple(table.shape) != shape:
        raise AnalysisError(f"{path}: {key} is of (layers, experts) = {shape}; got {tuple(table.shape)}; correct it")
    if not (table.isfinite() & (table >= 0)).all() or not all(map(math.isfinite, table.sum(1).tolist())):
        raise AnalysisError(f"{path}: {key} has numbers that are finite and not negative; correct it")
    if (table.sum(1) == 0).any():
        raise AnalysisError(f"{path}: every layer has selections; {key} has a layer without any: it is of no model")
    return table


def _of_history(path: Path, name: str) -> ExpertUsage:
    try:
        history = UsageHistory.read(path)
    except DataError as error:
        raise AnalysisError(f"{path} is no usage file: {error}") from error
    counts = torch.stack(history.counts).sum(0)
    # A history has neither depths nor K: layers are numbered, and the share of the busiest is that of one expert.
    return ExpertUsage(name, tuple(range(len(counts))), 1, counts)


def check_same_shape(usages: list[ExpertUsage]) -> None:
    """Raise `AnalysisError` where usages are not of the same experts."""
    first = usages[0]
    for other in usages[1:]:
        if other.counts.shape != first.counts.shape:
            shapes = [f"{tuple(each.counts.shape)} ({each.name})" for each in (first, other)]
            raise AnalysisError(f"usage is compared expert by expert, (layers, experts); got {' and '.join(shapes)}")
