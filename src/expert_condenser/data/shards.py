"""Shards are the files of one set, `train-00000-of-00002.parquet` and so on: all of them, in order."""

import re
from collections.abc import Sequence
from pathlib import Path

from expert_condenser.errors import DataError

_NUMBER = re.compile(r"-(\d+)-of-(\d+)")


def whole(files: Sequence[Path]) -> list[Path]:
    """The files of one set in their order: by the numbers in their names, else as given.

    Raises `DataError` unless each of the `of-N` in their names is there once; they count from 0, or from 1.
    """
    found = [_NUMBER.search(path.stem) for path in files]
    marks = [(int(mark[1]), int(mark[2])) if mark else (at, len(files)) for at, mark in enumerate(found)]
    if sorted(marks) not in ([(first + at, len(files)) for at in range(len(files))] for first in (0, 1)):
        raise DataError(
            f"{files[0].parent} must hold each of {marks[0][1]} shards once, as their names say, but it has "
            f"{', '.join(path.name for path in files)}; add those that are missing, or remove the others"
        )
    return [path for _, path in sorted(zip(marks, files, strict=True))]


def in_order(files: Sequence[Path]) -> list[Path]:
    """The same files, with the shards of each set in the order of their numbers; raises `DataError` as `whole` does."""
    sets: dict[tuple[Path, str, str], list[Path]] = {}
    for path in files:
        sets.setdefault(_set_of(path), []).append(path)
    # A set keeps the places that its files have among the others: 10 stands behind 9, and no other file moves.
    members = {key: iter(whole(paths) if _NUMBER.search(paths[0].stem) else paths) for key, paths in sets.items()}
    return [next(members[_set_of(path)]) for path in files]


def _set_of(path: Path) -> tuple[Path, str, str]:
    """What the shards of a set have in common: `data/train-00000-of-00002-5f3a.parquet` -> data, train, .parquet."""
    mark = _NUMBER.search(path.stem)
    return path.parent, path.stem[: mark.start()] if mark else path.name, path.suffix.lower()
