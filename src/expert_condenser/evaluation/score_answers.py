"""Read the answers out of texts that exist already, and compare them with the gold ones."""

from pathlib import Path
from typing import Any

from expert_condenser.data.formats import Row, text_of
from expert_condenser.data.readers import read_file
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import AnswerKind
from expert_condenser.evaluation.tasks import TASKS


def score(task: str, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How many pairs there are, how many answers could be read and were right; and the rows that could not.

    Where rows have a `task`, as in an evaluation's `items.jsonl`, only those of this task count. Row numbers are those
    of the file, from 1. Raises `DataError` on a file that is missing, malformed or empty, on rows without the two
    columns, on gold answers that cannot be read, and if no row is of the task.
    """
    if not path.is_file():
        raise DataError(f"the file must exist, but there is no file {path}; correct the path")
    kind, correct, misses = TASKS[task].answer, 0, []
    rows = _rows_of(task, path)
    for number, row in rows:
        try:
            output, gold = _pair(kind, row)
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        extracted = kind.extract(output)
        if extracted is None:
            misses.append({"row": number, "output": output})
        else:
            correct += kind.equal(extracted, gold)
    compared = {"comparison": kind.comparison()} if kind.comparison else {}
    return {"n": len(rows), "extracted": len(rows) - len(misses), "correct": correct, **compared}, misses


def _rows_of(task: str, path: Path) -> list[tuple[int, Row]]:
    """The rows of a file that are of this task, with their numbers; all of them where no row names a task."""
    rows = list(enumerate(read_file(path).rows, start=1))
    if not any("task" in row for _, row in rows):
        return rows
    nameless = next((number for number, row in rows if not row.get("task")), None)
    if nameless is not None:
        raise DataError(f"{path}: every row or none has a 'task', but row {nameless} has none; add it")
    chosen = [(number, row) for number, row in rows if row["task"] == task]
    if not chosen:
        there = ", ".join(dict.fromkeys(str(row["task"]) for _, row in rows))
        raise DataError(f"{path} must have rows of the task {task!r}, but it has only those of {there}; name one")
    return chosen


def _pair(kind: AnswerKind, row: Row) -> tuple[str, str]:
    column = "gold" if "gold" in row and "answer" not in row else "answer"
    missing = [needed for needed in ("output", column) if needed not in row]
    if missing:
        raise DataError(
            f"a row needs 'output' and 'answer' (or 'gold'), but this one has no {' and no '.join(map(repr, missing))} "
            f"(its columns: {', '.join(row)}); rename the columns"
        )
    answer = text_of(row[column])
    gold = kind.read_gold(answer)
    if gold is None:
        raise DataError(f"{column!r} must be {kind.wanted} for this task, but it is {answer[:60]!r}; correct it")
    return text_of(row["output"] if row.get("raw") is None else row["raw"]), gold
