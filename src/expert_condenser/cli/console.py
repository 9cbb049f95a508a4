"""What a person sees: results on stdout; the log, progress and errors on stderr. Only the rooms of `cli/` print."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expert_condenser.errors import UsageError
from expert_condenser.files import write_json

LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
DEFAULT = "info"
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Read by other libraries when they are imported; what the user has set stays."""
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""Of numpy, whose matrices are small here: a second thread spins for longer than it computes. torch has its own."""


def verbosity_of(words: list[str]) -> tuple[str, list[str]]:
    """The value of `--verbosity`, the last one, and the other words; raises `UsageError` on another value."""
    level, rest, left = DEFAULT, [], iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag != "--verbosity":
            rest.append(word)
            continue
        level = value if equals else next(left, "")
        if level not in LEVELS:
            raise UsageError(f"--verbosity is one of {', '.join(LEVELS)}; got {level!r}")
    return level, rest


@contextmanager
def shown_log(level: str) -> Iterator[None]:
    """Show our log on stderr from this level on, until the end; other libraries stay quiet unless it is `debug`."""
    from rich.console import Console
    from rich.logging import RichHandler

    own = logging.getLogger("expert_condenser")
    before = own.handlers, own.level, own.propagate
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    handler.addFilter(_without_rank)
    own.handlers = [handler]
    own.setLevel(LEVELS[level])
    own.propagate = False  # what else listens, at the root, would print it twice
    os.environ.setdefault(_BLAS_THREADS, "1")
    try:
        with warnings.catch_warnings():
            if level != "debug":
                _quiet_from_the_start()
            yield
    finally:  # whoever calls `main` from Python has the log as it was
        own.handlers, own.propagate = before[0], before[2]
        own.setLevel(before[1])


def _quiet_from_the_start() -> None:
    """What can be said to other libraries before they are imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # TRL and PEFT use names that transformers gave new ones; nobody who runs a command can do anything about it.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)


def _without_rank(record: logging.LogRecord) -> bool:
    """Take away what accelerate's logger puts in front, where there is one process to speak."""
    record.msg = str(record.msg).removeprefix("[RANK 0] ")
    return True


def quiet_libraries() -> None:
    """Turn off the progress bars and messages of transformers and datasets, once they are imported."""
    if logging.getLogger("expert_condenser").level == logging.DEBUG:
        return
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on stderr: yields a function that moves it on by so many of `total`.

    It is drawn only when it moves, so that it takes no time from what is measured meanwhile.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    hidden = not console.is_terminal or logging.getLogger("expert_condenser").getEffectiveLevel() > logging.INFO
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left:"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden, auto_refresh=False) as bar:
        shown = bar.add_task(label, total=total)
        yield lambda count: bar.update(shown, advance=count, refresh=True)


def put_json(target: str, content: Any, *, indent: int | None = None) -> None:
    """Write JSON where `--json` says: to a file, or without one to stdout."""
    if target == "-":
        print(json.dumps(content, indent=indent))
    else:
        write_json(Path(target), content, indent=indent)
        say_result(Path(target))


def say_result(path: Path | str) -> None:
    """The last line on stdout of a command that leaves something: where it lies, a path or an address."""
    sys.stdout.flush()
    print(f"result: {path}")
