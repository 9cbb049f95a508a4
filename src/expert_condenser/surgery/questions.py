"""Questions of tasks that a model is asked before and after, as `condenser eval` asks them.

Every version's answers are an evaluation of its own, `DIR/evaluation/before` say, which `condenser compare` reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from expert_condenser.analysis.quality import change_of_means
from expert_condenser.errors import SurgeryError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import check_mode, evaluate
from expert_condenser.evaluation.forcing import MODE as TEACHER_FORCED
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.settings import Asking
from expert_condenser.evaluation.tasks import load_tasks
from expert_condenser.evaluation.tasks.task import LoadedTask

ANSWERS = "evaluation"
"""The folder of all answers."""


@dataclass(frozen=True)
class Questions:
    """Tasks and how they are asked."""

    tasks: list[LoadedTask]
    mode: str
    generation: Generation

    def ask(self, model: Any, tokenizer: PreTrainedTokenizerBase, path: str, folder: Path) -> dict[str, Any]:
        """Task -> its scores, as `results.json` in `folder` has them; `path` is where the model was loaded from."""
        backend = LocalBackend(path, tokenizer, model=model)
        results = evaluate(
            backend, tokenizer, self.tasks, folder, self.generation, label=folder.name, asking=Asking(self.mode)
        )
        scores: dict[str, Any] = results["tasks"]
        return scores


def read_questions(
    names: str, *, mode: str = TEACHER_FORCED, data: Path | None, limit: int, batch_size: int
) -> Questions:
    """The first `limit` questions of tasks, with commas between their names.

    Raises `SurgeryError` where no task is named, and as `load_tasks` and `check_mode`.
    """
    wanted = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if not wanted:
        raise SurgeryError(f"--evaluate names tasks, with commas between them; got {names!r}")
    tasks, generation = load_tasks(dict.fromkeys(wanted, limit), data), Generation(batch_size=batch_size)
    check_mode(mode, tasks, generation)
    return Questions(tasks, mode, generation)


def compared(scores: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Of every task: accuracy and nll, and by how much both are above those of `before` on the same questions.

    The change of accuracy has an interval for new questions, paired over them (bootstrap, 95 %).
    """
    return {name: _task(found, before[name]) for name, found in scores.items()}


def _task(found: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    change, interval = change_of_means(_right(found), _right(before))
    nll, first = found["nll"], before["nll"]
    return {
        "items": found["n"],
        "accuracy": found["accuracy"],
        "accuracy_change": change,
        "accuracy_change_interval": [interval.low, interval.high],
        "nll": nll,
        "nll_rise": None if nll is None or first is None else nll - first,
    }


def _right(task: Mapping[str, Any]) -> Float[np.ndarray, " N"]:
    return np.array([int(digit) for digit in task["correct_items"]], dtype=np.float64)
