"""What a person sees: results on stdout; the log, progress and errors on stderr. Only the rooms of `cli/` print."""

import json
import logging
import os
import sys
import warnings
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


def verbosity_of(words: list[str]) -> tuple[str, list[str]]:
    """The value of `--verbosity`, and the other words; raises `UsageError` on another value."""
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--verbosity":
            value = value if equals else "".join(words[position + 1 : position + 2])
            if value not in LEVELS:
                raise UsageError(f"--verbosity is one of {', '.join(LEVELS)}; got {value!r}")
            return value, words[:position] + words[position + (1 if equals else 2) :]
    return DEFAULT, words


def set_up(level: str) -> None:
    """Show our log from this level on; other libraries stay quiet unless it is `debug`."""
    from rich.console import Console
    from rich.logging import RichHandler

    own = logging.getLogger("expert_condenser")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    handler.addFilter(_without_rank)
    own.handlers[:] = [handler]
    own.setLevel(LEVELS[level])
    own.propagate = False
    if level != "debug":
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)


def _without_rank(record: logging.LogRecord) -> bool:
    """Take away what accelerate's logger puts in front, where there is one process to speak."""
    record.msg = str(record.msg).removeprefix("[RANK 0] ")
    return True


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of transformers and datasets, once they are imported."""
    if logging.getLogger("expert_condenser").level == logging.DEBUG:
        return
    import datasets
    import transformers

    # TRL and PEFT use names that transformers gave new ones; nobody who runs a command can do anything about it.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def put_json(target: str, content: Any, *, indent: int | None = None) -> None:
    """Write JSON where `--json` says: to a file, or without one to stdout."""
    if target == "-":
        print(json.dumps(content, indent=indent))
    else:
        write_json(Path(target), content, indent=indent)
        say_result(Path(target))


def say_result(path: Path) -> None:
    """The last line on stdout of a command that leaves something: where it lies."""
    sys.stdout.flush()
    print(f"result: {path}")
