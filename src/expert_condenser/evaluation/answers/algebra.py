"""Whether two expressions are equal by algebra: math-verify says so, in a process that may be ended at any time.

It uses sympy, and an expression that a model wrote may keep sympy busy for ever: see `algebra_worker` for the limits.
What is not decided within them is not equal.
"""

import atexit
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

WORKER = Path(__file__).with_name("algebra_worker.py")
MAX_LENGTH = 300
"""A longer expression is a model that repeats itself."""
SECONDS = 5.0
"""What a comparison may take of the processor."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}|\A[A-Za-z]{3,}\Z")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
_BASE = re.compile(r"\d_\{?\d")


@lru_cache
def comparison() -> str:
    """What compares expressions: math-verify with its version, or this package's rules for layout alone."""
    try:
        return f"math-verify {version('math-verify')}" if os.name == "posix" else "layout"
    except PackageNotFoundError:
        return "layout"


@lru_cache(maxsize=4096)
def equal(one: str, other: str) -> bool:
    """Whether math-verify finds two expressions equal, in either order; False without it, and where it may err.

    It takes a word for a product of its letters ("listen" is "silent"), leaves out the base of `4210_5`, and takes
    1:2 for one half: such expressions are not asked about.
    """
    texts = (one, other)
    if comparison() == "layout" or not all(0 < len(text) <= MAX_LENGTH for text in texts):
        return False
    if (":" in one) != (":" in other) or any(map(_misread, texts)):
        return False
    return _worker.ask(*sorted(texts))


def _misread(text: str) -> bool:
    return "$" in text or bool(_WORD.search(_ENVIRONMENT.sub(" ", text)) or _BASE.search(text))


class _Worker:
    """The process, started when it is first needed, and again after it was ended."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[str] | None = None

    def ask(self, one: str, other: str) -> bool:
        """What the process says; False where it ends over the question."""
        if self.process is None:
            self.process = _start(self.seconds)
        question, answer = self.process.stdin, self.process.stdout
        assert question is not None
        assert answer is not None
        try:
            question.write(json.dumps([one, other]) + "\n")
            question.flush()
            line = answer.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
        return line.strip() == "true"

    def close(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _start(seconds: float) -> "subprocess.Popen[str]":
    """The process; `-P` keeps the folder of its file from being searched for modules."""
    return subprocess.Popen(
        [sys.executable, "-P", str(WORKER), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


_worker = _Worker()
atexit.register(_worker.close)
