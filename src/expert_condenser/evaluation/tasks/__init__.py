"""The tasks by name, and `load`, which turns one into questions: one file per family of benchmarks."""

from collections.abc import Iterable
from pathlib import Path

from expert_condenser.data.splits import SPLITS
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.tasks import commonsense, gpqa, math
from expert_condenser.evaluation.tasks.task import LoadedTask, Task
from expert_condenser.evaluation.tasks.testbed import FAMILY_TASKS

TASKS: dict[str, Task] = {
    "gsm8k": math.GSM8K,
    "svamp": math.SVAMP,
    "mawps": math.MAWPS,
    "aqua": math.AQUA,
    "addsub": math.ADDSUB,
    "singleeq": math.SINGLEEQ,
    "multiarith": math.MULTIARITH,
    "mathqa": math.MATHQA,
    "math_500": math.MATH_500,
    "boolq": commonsense.BOOLQ,
    "piqa": commonsense.PIQA,
    "siqa": commonsense.SIQA,
    "hellaswag": commonsense.HELLASWAG,
    "winogrande": commonsense.WINOGRANDE,
    "arc_easy": commonsense.ARC_EASY,
    "arc_challenge": commonsense.ARC_CHALLENGE,
    "openbookqa": commonsense.OPENBOOKQA,
    "gpqa_diamond": gpqa.GPQA_DIAMOND,
    **FAMILY_TASKS,
}


def check_names(names: Iterable[str]) -> None:
    """Raise `EvaluationError` on an unknown task."""
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise EvaluationError(f"a task is one of {', '.join(TASKS)}; got {', '.join(unknown)}; correct the name")


def load(name: str, data: Path | None = None, limit: int | None = None, split: str = "test") -> LoadedTask:
    """A task with its first `limit` questions, all of them by default.

    `data` is a file, or a directory in which the task's files are searched (`gsm8k.json`, `gsm8k_test.jsonl`,
    `gsm8k/test.json`, …); without it, the data set is loaded from the hub. The testbed's
    families need neither. Where a published test split has no answers,
    `test` is the validation split. Raises `EvaluationError` on an unknown task or split, and `DataError` on data
    that is missing, malformed, empty, without a column, or whose gold answers cannot be read; with path and row.
    """
    check_names([name])
    if split not in SPLITS:
        raise EvaluationError(f"a split is one of {', '.join(SPLITS)}; got {split!r}; correct the name")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, but it is {limit}; leave it out to take every question")
    task = TASKS[name]
    return LoadedTask(name, task.questions(data, limit, split), task.answer, task.max_new_tokens)
