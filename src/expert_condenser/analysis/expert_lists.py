"""A ranked list of experts as JSONL, for other tools and for `analyze prune --experts`: a line per expert.

    {"family": "olmoe", "num_experts": 24, "num_layers": 5, "criterion": "reap", "layer": 0, "depth": 0, "expert": 7,
     "rank": 0, "score": 3.1, "format_version": 1}

`rank` 0 is the expert that is kept longest in its layer; `depth` is that of the layer in the decoder.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.subjects import Subject
from expert_condenser.errors import AnalysisError, DataError
from expert_condenser.files import is_number, json_object, read_text, write_text

FORMAT_VERSION = 1
_LARGEST = sys.float_info.max
_KEYS = {"family": str, "num_experts": int, "num_layers": int, "criterion": str, "layer": int, "expert": int}


def write_list(path: Path, subject: Subject, scores: Mapping[str, Float64[Tensor, "L E"]]) -> None:
    """Write one list of all criteria, each layer's experts in the order of their rank."""
    text = "".join(json.dumps(line) + "\n" for name, table in scores.items() for line in _lines(subject, name, table))
    write_text(path, text)


def _lines(subject: Subject, criterion: str, table: Tensor) -> list[dict[str, Any]]:
    shape = subject.shape
    head = {"family": shape.family, "num_experts": shape.num_experts, "num_layers": len(shape.layers)}
    return [
        {
            **head,
            "criterion": criterion,
            "layer": layer,
            "depth": shape.layers[layer],
            "expert": int(expert),
            "rank": rank,
            "score": float(row[expert]),
            "format_version": FORMAT_VERSION,
        }
        for layer, row in enumerate(table)
        for rank, expert in enumerate(row.argsort(descending=True, stable=True))
    ]


def read_list(path: Path, subject: Subject) -> dict[str, Float64[Tensor, "L E"]]:
    """The scores of a list by criterion; raises `AnalysisError` where it is none, or of another model's experts."""
    try:
        lines = read_text(path).splitlines()
    except DataError as error:
        raise AnalysisError(f"--experts is a list of experts, a file of JSON lines: {error}; name another") from error
    entries = [_entry(path, number, line) for number, line in enumerate(lines, start=1)]
    if not entries:
        raise AnalysisError(f"{path} is a list of experts, a JSON line for each; it is empty")
    shape = subject.shape
    wanted = (shape.family, shape.num_experts, len(shape.layers))
    for entry in entries:
        if (found := (entry["family"], entry["num_experts"], entry["num_layers"])) != wanted:
            raise AnalysisError(
                f"{path} lists experts of another model: {found[0]}, {found[2]} layers of {found[1]} experts; "
                f"{subject.name} is {shape}"
            )
    tables: dict[str, Tensor] = {}
    for entry in entries:
        table = tables.setdefault(
            entry["criterion"], torch.full((len(shape.layers), shape.num_experts), torch.nan, dtype=torch.float64)
        )
        if not (0 <= entry["layer"] < table.shape[0] and 0 <= entry["expert"] < table.shape[1]):
            raise AnalysisError(
                f"{path}: the model has layers 0 to {table.shape[0] - 1} of experts 0 to {table.shape[1] - 1}; got "
                f"layer {entry['layer']}, expert {entry['expert']}"
            )
        table[entry["layer"], entry["expert"]] = float(entry["score"])
    if missing := [name for name, table in tables.items() if table.isnan().any()]:
        raise AnalysisError(f"{path} has a score for every expert of every layer; {', '.join(missing)} lacks some")
    return tables


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json_object(line)
        if wrong := [key for key, kind in _KEYS.items() if type(entry.get(key)) is not kind]:
            raise DataError(f"{wrong[0]} is of type {_KEYS[wrong[0]].__name__}; got {entry.get(wrong[0])!r}")
        score: Any = entry.get("score")
        if not is_number(score) or not -_LARGEST <= score <= _LARGEST:
            raise DataError(f"score is a number; got {score!r}")
    except DataError as error:
        raise AnalysisError(
            f"{path}: line {number} is no expert of a list ({error}); `analyze prune` writes one"
        ) from error
    return entry
