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
    _check_kinds(path, content)
    layers = content["layers"]
    shape = len(layers), content["num_experts"]
    mass = content.get("top_k_gate_mass")
    return ExpertUsage(
        name,
        tuple(layers),
        content["top_k"],
        _table(path, "selection_counts", content["selection_counts"], shape),
        None if mass is None else _table(path, "top_k_gate_mass", mass, shape, torch.float64),
        _condensers(path, content.get("condensers") or {}, shape),
        content.get("task"),
    )


def _check_kinds(path: Path, content: dict[str, Any]) -> None:
    """Raise `AnalysisError` where the numbers that say of what model this is are none."""
    layers, experts, top_k = (content[name] for name in ("layers", "num_experts", "top_k"))
    if not isinstance(layers, list) or not layers or any(type(depth) is not int for depth in layers):
        raise AnalysisError(f"{path}: layers is a list with the depth of every MoE layer; got {layers!r}; correct it")
    if type(experts) is not int or type(top_k) is not int or not 1 <= top_k <= experts:
        raise AnalysisError(
            f"{path}: a token chooses top_k of num_experts, whole numbers from 1 on; got {top_k!r} of {experts!r}; "
            "correct it"
        )


def _condensers(path: Path, found: Any, shape: tuple[int, int]) -> dict[int, list[int]]:
    """`{layer index: expert ids}`, of layers and experts that there are."""
    if not isinstance(found, dict) or not all(_are_ids(layer, ids) for layer, ids in found.items()):
        raise AnalysisError(
            f'{path}: condensers has expert ids by layer index, {{"0": [3, 7]}}; got {str(found)[:60]}; correct it'
        )
    condensers = {int(layer): ids for layer, ids in found.items()}
    for layer, ids in condensers.items():
        if not 0 <= layer < shape[0] or any(not 0 <= i < shape[1] for i in ids):
            raise AnalysisError(
                f"{path}: there are layers 0 to {shape[0] - 1} of experts 0 to {shape[1] - 1}; condensers has layer "
                f"{layer}, experts {ids}; correct it"
            )
    return condensers


def _are_ids(layer: str, ids: Any) -> bool:
    if not layer.isascii() or not layer.isdecimal() or len(layer) > 9:  # more digits than that are no layer
        return False
    return isinstance(ids, list) and all(type(id_) is int for id_ in ids)


def names_of(paths: list[Path]) -> list[str]:
    """What usage files are called: by their own name, and where two are alike by that of their folder too.

    Raises `AnalysisError` where that is not enough, or one is there twice.
    """
    plain = [path.parent.name if path.suffix == ".safetensors" else path.stem for path in paths]
    names = [
        name if plain.count(name) == 1 else f"{path.resolve().parent.name}/{path.stem}"
        for name, path in zip(plain, paths, strict=True)
    ]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise AnalysisError(f"usages are told apart by name, and {', '.join(double)} is there twice; rename one file")
    return names


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
