"""The tasks: so far the testbed's families, as `testbed:FAMILY`."""

from collections.abc import Iterable
from pathlib import Path

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.tasks.task import AnswerKind, LoadedTask, Question
from expert_condenser.evaluation.testbed import final_answer
from expert_condenser.testbed.families import BY_NAME, Split, items

PREFIX = "testbed:"
EXACT = AnswerKind("exact", lambda text: final_answer(text) or None, lambda extracted, gold: extracted == gold)


def check_names(names: Iterable[str]) -> None:
    """Raise `EvaluationError` on an unknown task."""
    known = [PREFIX + name for name in BY_NAME]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise EvaluationError(f"a task is one of {', '.join(known)}; got {', '.join(unknown)}")


def load(name: str, data: Path | None, limit: int | None, split: Split = "test") -> LoadedTask:
    """The first `limit` questions of a task."""
    check_names([name])
    family = name.removeprefix(PREFIX)
    questions = [
        Question(str(i), [{"role": "user", "content": item.question}], final_answer(item.answer), item.answer)
        for i, item in enumerate(items(family, split, limit or 400))
    ]
    return LoadedTask(name, questions, EXACT, 64)
