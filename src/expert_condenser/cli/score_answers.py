"""`condenser score-answers`: score a file of answers by the rules of a task, without a model."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from expert_condenser.cli.console import put_json
from expert_condenser.cli.parsing import Parser

SHOWN = 100
"""Characters of an answer that is shown."""


def run(words: list[str]) -> None:
    """Score a file of `output` and `answer` pairs, or an evaluation's `items.jsonl`, by the rules of a task."""
    options = _read(words)
    # Once the words are right: reading data takes a second to import.
    from expert_condenser.evaluation.score_answers import score
    from expert_condenser.evaluation.tasks import check_names

    check_names([options.task])
    scores, misses = score(options.task, options.data)
    if options.json is not None:
        put_json(options.json, {**scores, "misses": misses} if options.show_misses else scores)
        return
    console = Console()
    shares = ", ".join(f"{scores[key]} {key} ({scores[key] / scores['n']:.1%})" for key in ("extracted", "correct"))
    console.print(f"[bold]{options.task}[/]: {scores['n']} answers, {shares}")
    for miss in misses if options.show_misses else []:
        console.print(f"  row {miss['row']}: … {escape(miss['output'][-SHOWN:].strip()) or '(empty)'}")


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("score-answers", "Score a file of answers by the rules of a task.", {"file": "data"})
    parser.add_argument("--task", required=True, help="whose rules: gsm8k, boolq, testbed:FAMILY, …")
    parser.shared("data", type=Path, required=True, help="a .json, .jsonl or .parquet file")
    parser.add_argument("--show_misses", action="store_true", help="also the rows without an extracted answer")
    parser.shared("json")
    return parser.read(words)
