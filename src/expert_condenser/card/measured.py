"""What an evaluation found of a model, for its card: only of these very weights, and with intervals."""

from math import sqrt
from pathlib import Path
from typing import Any

from expert_condenser.checkpoint.card import Measured
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.identity import weights_of
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.files import is_number
from expert_condenser.surgery.questions import ANSWERS

_Z = 1.959964
"""Of 95 %."""


def results_beside(model: Path) -> Path | None:
    """The results of a model: in its folder, in that of its run, or in that of its pruning."""
    pruned, healed = model.parent / ANSWERS / "after", model.parent.parent / ANSWERS / model.parent.name
    places = (folder / RESULTS for folder in (model, model.parent, pruned, healed))
    return next((place for place in places if place.is_file()), None)


def measured_in(path: Path, model: Path) -> list[Measured]:
    """The accuracy on every task of a `results.json`; raises `EvaluationError` where it is of other weights."""
    results = Results.read(path)
    if results.weights is not None and results.weights != (found := weights_of(model)):
        raise EvaluationError(
            f"a card has the results of its own model: {path} is of the weights {results.weights}, and {model} has "
            f"{found}. Evaluate it, or name its results with --results"
        )
    split = str(results.generation.get("split") or "test")
    return [_measured(name, task, split, path) for name, task in results.tasks.items()]


def _measured(name: str, task: dict[str, Any], split: str, path: Path) -> Measured:
    items: Any = task.get("n")
    correct: Any = task.get("correct")
    if "correct_samples" in task and isinstance(task.get("accuracy"), float) and type(items) is int:
        correct = task["accuracy"] * items  # of several answers to each item, on average
    if type(items) is not int or not items or not is_number(correct) or not 0 <= correct <= items:
        raise EvaluationError(
            f"{path} has n items and the `correct` ones of every task; of {name} it has {items!r} and {correct!r}"
        )
    return Measured(name, split, correct / items, *wilson(correct, items), items)


def wilson(correct: int | float, items: int) -> tuple[float, float]:
    """The interval of Wilson (1927) in which the accuracy on new items lies, at 95 %.

    `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`; it stays within 0 and 1, and is no point at either end.
    """
    share, square = correct / items, _Z**2 / items
    middle, half = share + square / 2, _Z * sqrt(share * (1 - share) / items + square / (4 * items))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
