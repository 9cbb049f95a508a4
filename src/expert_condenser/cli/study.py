"""`condenser study FILE.yaml --output_dir DIR`, `condenser study tables DIR ...` and `condenser study best DIR`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from expert_condenser.cli.console import say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import UsageError
from expert_condenser.study.tables import best_table, write_tables

DESCRIPTION = (
    "Run a study: a grid of methods, seeds and options on one base; what is done already is skipped. `condenser study "
    "tables DIR ...` makes its tables again from the raw files, `condenser study best DIR` says which options of its "
    "grid won."
)


def run(words: list[str]) -> None:
    """Run what is missing of a study, or make its tables."""
    if words[:1] in (["tables"], ["best"]) and not {"-h", "--help"} & set(words):
        _of_finished(words[0], [Path(word) for word in words[1:]])
        return
    parser = Parser("study", DESCRIPTION)
    parser.add_argument("file", type=Path, help="the study's YAML file; or `tables DIR ...`, or `best DIR`")
    parser.shared("output_dir", required=True, help="where its runs are, or go on")
    parser.add_argument("--workers", type=int, default=None, help="runs at a time: one per GPU, or one, by default")
    parser.add_argument("--executor", help="local or slurm: every run is a job, through submitit; default: a process")
    parser.add_argument(
        "--executor_options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of every job: timeout_min=60 partition=gpu",
    )
    options = parser.read(words)
    asked = dict(_named(word) for word in options.executor_options)
    from expert_condenser.study.run import run_study  # loads torch and TRL, which tables do not need

    with _display() as show:
        run_study(options.file, options.output_dir, options.workers, show, options.executor, asked)
    print(f"its tables: condenser study tables {options.output_dir}")
    say_result(options.output_dir)


def _named(word: str) -> tuple[str, Any]:
    """`timeout_min=60` as a name and a value, which is read as in the study's file."""
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise UsageError(f"--executor_options takes NAME=VALUE ...; got {word!r}")
    return name, yaml.safe_load(value)


@contextmanager
def _display() -> Iterator[Callable[[Any, Any], None]]:
    """Where a study stands, on stderr: a table that is drawn anew, or where that is no terminal a line per run."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def show(progress: Any, cell: Any) -> None:
            if console.is_terminal:
                live.update(_table(progress), refresh=True)
            else:
                state = "done" if cell.folder in progress.done else "FAILED"
                console.print(f"{cell.folder}: {state}; {progress.summary()}")

        yield show


def _table(progress: Any) -> Table:
    """A row per arm."""
    table = Table(title=progress.summary())
    for name in ("arm", "done", "failed", progress.cells[0].study.first_task):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in progress.rows():
        table.add_row(*row)
    return table


def _of_finished(word: str, folders: list[Path]) -> None:
    if not folders or (word == "best" and len(folders) > 1):
        raise UsageError(f"condenser study {word} takes {'one folder' if word == 'best' else 'folders'} of studies")
    for folder in folders:
        if word == "best":
            print(best_table(folder))
        else:
            for path in write_tables(folder):
                say_result(path)
