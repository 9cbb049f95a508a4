"""`condenser score-answers`: read the answers out of texts that exist already, and compare them with the gold ones."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import AnswerKind
from expert_condenser.evaluation.tasks import TASKS, check_names
from expert_condenser.training.data import read_file
from expert_condenser.training.formats import Row, text_of

SHOWN = 100


def score_answers(arguments: Sequence[str]) -> None:
    """Score a file of `output` and `answer` pairs by the rules of a task."""
    parser = argparse.ArgumentParser(prog="condenser score-answers", description=score_answers.__doc__)
    parser.add_argument("--task", required=True, help="whose rules: gsm8k, boolq, testbed:FAMILY, …")
    parser.add_argument("--file", type=Path, required=True, help=".json, .jsonl or .parquet")
    parser.add_argument("--show-misses", action="store_true", help="also the rows without an extracted answer")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(list(arguments))
    check_names([options.task])
    scores, misses = score(TASKS[options.task].answer, options.file)
    if options.json:
        print(json.dumps({**scores, "misses": misses} if options.show_misses else scores))
        return
    console = Console()
    shares = ", ".join(f"{scores[key]} {key} ({scores[key] / scores['n']:.1%})" for key in ("extracted", "correct"))
    console.print(f"[bold]{options.task}[/]: {scores['n']} answers, {shares}")
    for miss in misses if options.show_misses else []:
        console.print(f"  row {miss['row']}: … {escape(miss['output'][-SHOWN:].strip()) or '(empty)'}")


def score(kind: AnswerKind, path: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How many pairs there are, how many answers could be read and were right; and the rows that could not.

    Rows count from 1. Raises `DataError` on a file that is missing, malformed or empty, on rows without the two
    columns, and on gold answers that cannot be read.
    """
    if not path.is_file():
        raise DataError(f"the file must exist, but there is no file {path}; correct the path")
    correct, misses = 0, []
    rows = read_file(path).rows
    for number, row in enumerate(rows, start=1):
        try:
            output, gold = _pair(kind, row)
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        extracted = kind.extract(output)
        if extracted is None:
            misses.append({"row": number, "output": output})
        else:
            correct += kind.equal(extracted, gold)
    return {"n": len(rows), "extracted": len(rows) - len(misses), "correct": correct}, misses


def _pair(kind: AnswerKind, row: Row) -> tuple[str, str]:
    missing = [column for column in ("output", "answer") if column not in row]
    if missing:
        raise DataError(
            f"a row needs 'output' and 'answer', but this one has no {' and no '.join(map(repr, missing))} "
            f"(its columns: {', '.join(row)}); rename the columns"
        )
    answer = text_of(row["answer"])
    gold = kind.read_gold(answer)
    if gold is None:
        raise DataError(f"'answer' must be {kind.wanted} for this task, but it is {answer[:60]!r}; correct it")
    return text_of(row["output"]), gold
