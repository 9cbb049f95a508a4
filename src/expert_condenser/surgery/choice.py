"""Who is to be removed from a model: by a criterion on data, by usage that was counted, or by a list.

A list is that of `condenser analyze prune` (a score for every expert), or names the experts that go, a line each:
`{"layer": 0, "expert": 7}`. All is checked before a weight is loaded, but for what only the model knows.
"""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.expert_lists import read_list
from expert_condenser.analysis.expert_scores import CRITERIA
from expert_condenser.analysis.subjects import Subject
from expert_condenser.analysis.usage_files import read_usage
from expert_condenser.errors import SurgeryError
from expert_condenser.names import unknown

USAGE = "usage"
"""The usual name of the criterion `activation`: how often an expert is chosen."""
NAMES = (USAGE, *(name for name in CRITERIA if name != "activation"))


def criterion_of(name: str) -> str:
    """The name of a criterion in `expert_scores`; raises `SurgeryError` on one that there is not."""
    if name not in (*NAMES, "activation"):
        raise SurgeryError(unknown("criterion", name, NAMES))
    return "activation" if name == USAGE else name


def scores_of_usage(path: Path, subject: Subject) -> Float64[Tensor, "L E"]:
    """Counted selections as scores; raises `SurgeryError` where they are of another model's experts."""
    counts = read_usage(path).counts.double()
    wanted = (len(subject.shape.layers), subject.shape.num_experts)
    if tuple(counts.shape) != wanted:
        raise SurgeryError(
            f"usage is of the model's experts, (layers, experts) = {wanted}; {path} has {tuple(counts.shape)}"
        )
    return counts


def read_choice(path: Path, subject: Subject, criterion: str | None) -> Float64[Tensor, "L E"] | dict[int, list[int]]:
    """The scores of a list, or the experts that it names; raises `SurgeryError` on another model's list."""
    if not path.is_file():
        raise SurgeryError(
            f"--list is a file of `condenser analyze prune`, or of experts to remove; there is no {path}"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SurgeryError(f"{path} is a list of experts, a JSON line for each; it is no text ({error})") from error
    entries = [_entry(path, number, line) for number, line in enumerate(lines, start=1)]
    if not entries:
        raise SurgeryError(f"{path} is a list of experts, a JSON line for each; it is empty")
    if not any("score" in entry for entry in entries):
        return _named(path, entries, subject)
    tables = read_list(path, subject)
    if criterion is None and len(tables) > 1:
        raise SurgeryError(f"{path} ranks experts by {', '.join(tables)}; say which one with --by")
    name = criterion or next(iter(tables))
    if name not in tables:
        raise SurgeryError(f"{path} ranks experts by {', '.join(tables)}, and not by {name}; take one of these")
    return tables[name]


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise SurgeryError(f"{path}: line {number} is no JSON ({error})") from error
    if not isinstance(entry, dict) or not all(type(entry.get(key)) is int for key in ("layer", "expert")):
        raise SurgeryError(
            f'{path}: line {number} names no expert, as {{"layer": 0, "expert": 7}} does; got {line[:80]}'
        )
    return entry


def _named(path: Path, entries: list[dict[str, Any]], subject: Subject) -> dict[int, list[int]]:
    shape = subject.shape
    own = {"family": shape.family, "num_experts": shape.num_experts, "num_layers": len(shape.layers)}
    for entry in entries:
        if wrong := [key for key, value in own.items() if entry.get(key, value) != value]:
            found = ", ".join(f"{key} {entry[key]}" for key in wrong)
            raise SurgeryError(f"{path} lists experts of another model ({found}); {subject.name} is {shape}")
    removed: dict[int, list[int]] = {}
    for entry in entries:
        removed.setdefault(entry["layer"], []).append(entry["expert"])
    return removed
