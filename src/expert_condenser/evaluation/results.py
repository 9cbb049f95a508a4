"""`results.json`: what an evaluation found, and on what terms. Read without torch.

Version 2 (`format_version`) keeps the fingerprints of prompts and questions with each task, so that runs which were
evaluated on different lists of tasks compare on those they share. Version 1, written before 0.2 without a
`format_version`, has one fingerprint for the prompts of all its tasks, and maybe no weights, dtype and backend.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expert_condenser.errors import EvaluationError
from expert_condenser.files import read_json, write_json

RESULTS = "results.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Results:
    """The content of `results.json`."""

    model: str
    """What the user calls the model; no two results are compared by it."""
    prompts: str
    """Fingerprint of template, decoding and limits of all tasks."""
    generation: dict[str, Any]
    """How answers were decoded; with `backend` and `dtype`, which version 1 may lack."""
    tasks: dict[str, dict[str, Any]]
    """Task -> its scores; with `prompts` (template, decoding, limit) and `questions`, which version 1 may lack."""
    weights: str | None = None
    """Of the model, as `weights_of` finds them; in version 1, None."""
    throughput: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)
    """What was measured besides answers (`study.measures`); not in a file where there is nothing."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Raises `ExpertCondenserError` where the file is missing, no JSON, malformed, or of a newer format."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise EvaluationError(f"{path} holds a JSON object; got a {type(content).__name__}; write it again")
        found = content.get("format_version", 1)
        if type(found) is not int or found > FORMAT_VERSION:
            raise EvaluationError(
                f"{path} has format_version {found!r}, and this release reads up to {FORMAT_VERSION}; update "
                "expert-condenser"
            )
        content = {"model": "", "prompts": "", "generation": {}, **content}
        _check(content, {"model": str, "prompts": str, "generation": dict, "tasks": dict}, path)
        _check(content["tasks"], dict.fromkeys(content["tasks"], dict), path)
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        return cls(**{**known, **(_migrated(content) if found == 1 else {})})

    def write(self, path: Path) -> None:
        """Write `results.json`, whole or not at all."""
        content = asdict(self)
        if not self.measures:
            del content["measures"]
        write_json(path, content, indent=1)


def _check(content: Mapping[str, Any], kinds: Mapping[str, type], path: Path) -> None:
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            got = f"got {content[key]!r}" if key in content else "it is missing"
            raise EvaluationError(f"{path} has {key!r}, of type {kind.__name__}; {got}. Run it again.")


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """What version 1 kept elsewhere; its `weights` were of sizes and times, which say nothing of a copy."""
    questions = content.get("questions", {})
    tasks = {
        name: {**task, **({"questions": questions[name]} if name in questions else {})}
        for name, task in content["tasks"].items()
    }
    return {"tasks": tasks, "weights": None, "format_version": 1}
