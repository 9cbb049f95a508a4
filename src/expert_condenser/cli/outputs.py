"""A file that a command is told to write is none of those that it reads, and none that its owner protects."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from expert_condenser.errors import UsageError
from expert_condenser.files import local_path

FLAGS = ("json", "out", "html", "plot")
"""Flags of a file that is written; `compare`, `eval` and others fill folders, which have rules of their own."""
_WRITTEN_BY_ANY = 0o222


def check_outputs(words: Sequence[str]) -> None:
    """Raise `UsageError` where a file that the words name to be written is read-only, or is named by others as well."""
    targets = dict(_targets(words))
    for at, target in targets.items():
        if not target.is_file():
            continue
        others = [word for place, word in enumerate(words) if place != at]
        if any(_is_same(target, named) for word in others for named in _named(word)):
            raise UsageError(f"{target} would be written over, and the same command names it again; name another file")
        if not target.stat().st_mode & _WRITTEN_BY_ANY:
            raise UsageError(f"{target} is read-only, and would be written over; name another file, or delete it")


def _targets(words: Sequence[str]) -> Iterator[tuple[int, Path]]:
    """The files to be written, by the place of the word that names them."""
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag.removeprefix("--") not in FLAGS or not word.startswith("--"):
            continue
        if equals and value:
            yield at, local_path(value)
        elif not equals and at + 1 < len(words) and not words[at + 1].startswith("-"):
            yield at + 1, local_path(words[at + 1])


def _named(word: str) -> Iterator[str]:
    """What may be a path in a word: the word, its value, the parts of a list."""
    value = word.partition("=")[2] if word.startswith("--") else word
    yield from dict.fromkeys((word, value, *value.split(",")))


def _is_same(target: Path, name: str) -> bool:
    try:
        return bool(name) and local_path(name).samefile(target)
    except (OSError, ValueError):  # no file, or no name of one
        return False
