"""What every model of a study is asked, and what is measured of it besides.

evaluate:
  tasks: {"testbed:worked_pairs": 1000, "testbed:gcd": 100}
  modes: {"testbed:worked_pairs": teacher_forced}   # optional: a mode of `condenser eval` per task; or one for all
  kl_to_base: true                                  # optional: KL to the base on what is to be learnt
  relearning: {steps: 15}                           # optional: how fast a model finds again what the base knew
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from expert_condenser.errors import EvaluationError

GENERATE = "generate"
MODES = (GENERATE, "likelihood", "teacher_forced")


@dataclass(frozen=True)
class Relearning:
    """A short training on what the base knew, after which it is asked again."""

    steps: int = 15
    items: int = 64
    """Validation items of the known tasks, in turn; they are seen again when all were seen."""
    batch_size: int = 16
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        """Raise `EvaluationError` where a value has no meaning."""
        for name in ("steps", "items", "batch_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise EvaluationError(f"relearning.{name} is a whole number, 1 or more; got {getattr(self, name)!r}")
        if not isinstance(self.learning_rate, float | int) or not self.learning_rate > 0:
            raise EvaluationError(f"relearning.learning_rate is above 0; got {self.learning_rate!r}")


@dataclass(frozen=True)
class Evaluation:
    """What every model of the study is asked."""

    tasks: Mapping[str, int]
    """Task -> number of items, the first ones."""
    split: str = "test"
    data: str | None = None
    batch_size: int = 64
    max_new_tokens: int | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    """Task -> how it is asked, where that is not by generation."""
    kl_to_base: bool = False
    relearning: Relearning | None = None

    @property
    def measures(self) -> dict[str, Any]:
        """What `results.json` has under `measures`, with the settings that decide it."""
        return {
            **({"kl_to_base": {}} if self.kl_to_base else {}),
            **({"relearning": vars(self.relearning)} if self.relearning is not None else {}),
        }


def read_evaluation(content: Mapping[str, Any], path: Path) -> Evaluation:
    """The mapping `evaluate` of a study file, whose keys are known and whose tasks are checked.

    Raises `EvaluationError` on a wrong mode, and on wrong options of what is measured.
    """
    modes, tasks = content.get("modes", {}), content["tasks"]
    if isinstance(modes, str):
        modes = dict.fromkeys(tasks, modes)
    if not isinstance(modes, dict) or not {*modes} <= {*tasks} or not {*map(str, modes.values())} <= {*MODES}:
        raise EvaluationError(
            f"{path}: evaluate.modes is one of {', '.join(MODES)}, or a mapping to them from tasks of the study "
            f"({', '.join(tasks)}); got {modes!r}"
        )
    if type(content.get("kl_to_base", False)) is not bool:
        raise EvaluationError(f"{path}: evaluate.kl_to_base is true or false; got {content['kl_to_base']!r}")
    return Evaluation(**{**content, "modes": modes, "relearning": _relearning(content.get("relearning"), path)})


def _relearning(content: Any, path: Path) -> Relearning | None:
    if content in (None, False):
        return None
    known = [each.name for each in fields(Relearning)]
    if content is not True and (not isinstance(content, dict) or not {*map(str, content)} <= {*known}):
        raise EvaluationError(
            f"{path}: evaluate.relearning is true, or a mapping of {', '.join(known)}; got {content!r}"
        )
    return Relearning(**({} if content is True else content))
