"""The tasks by name, and `load_tasks`, which turns them into questions: one file per family of benchmarks."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from expert_condenser.data.splits import SPLITS
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.tasks import commonsense, gpqa, math
from expert_condenser.evaluation.tasks.hub_splits import check_split
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


def check_names(names: Iterable[str], split: str = "test") -> None:
    """Raise `EvaluationError` on an unknown task or split."""
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise EvaluationError(f"a task is one of {', '.join(TASKS)}; got {', '.join(unknown)}; correct the name")
    if split not in SPLITS:
        raise EvaluationError(f"a split is one of {', '.join(SPLITS)}; got {split!r}; correct the name")


def load_tasks(limits: Mapping[str, int | None], data: Path | None = None, split: str = "test") -> list[LoadedTask]:
    """Tasks with their first questions, as many as `limits` says; `data` is for all but the testbed's families.

    Raises as `load`, and `EvaluationError` where `data` has no effect: no task reads it, or several a single file.
    """
    check_names(limits, split)
    reading = [name for name in limits if name not in FAMILY_TASKS]
    if data is not None and not reading:
        raise EvaluationError(f"{', '.join(limits)} are made on the spot, and read no data; got {data}. Leave it out")
    if data is not None and data.is_file() and len(limits) > 1:
        raise EvaluationError(f"a data file is of one task; got {data} for {', '.join(limits)}. Name a directory")
    for name in reading if data is None else ():
        check_split(TASKS[name], split)
    return [load(name, data if name in reading else None, limit, split) for name, limit in limits.items()]


def load(name: str, data: Path | None = None, limit: int | None = None, split: str = "test") -> LoadedTask:
    """A task with its first `limit` questions, all of them by default.

    `data` is a file, or a directory in which the task's files are searched (`gsm8k.json`, `gsm8k_test.jsonl`,
    `gsm8k/test.json`, …); without it, the data set is loaded from the hub. The testbed's
    families take neither. Where a published test split has no answers,
    `test` is the validation split. Raises `EvaluationError` on an unknown task or split, and `DataError` on data
    that is missing, malformed, empty, without a column, or whose gold answers cannot be read; with path and row.
    """
    check_names([name], split)
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, but it is {limit}; leave it out to take every question")
    task = TASKS[name]
    return LoadedTask(name, task.questions(data, limit, split), task.answer, task.max_new_tokens)
