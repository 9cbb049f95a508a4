"""Where rows come from: local files and directories, the hub, and the testbed's families.

A source is a local .json, .jsonl or .parquet file, a directory of these, a data set on the hub (`name` or
`name:config`), or a task of the testbed (`testbed:FAMILY` or `testbed:FAMILY:COUNT`). What exists locally is never
looked up on the hub. In a directory, a file whose name begins with a split (`test.jsonl`,
`validation-00000.parquet`) belongs to that split, and every other file to `train`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, load_dataset

from expert_condenser.data.procedural.families import FINETUNE_ITEMS, HELD_OUT_ITEMS, Split, items
from expert_condenser.errors import DataError

TESTBED = "testbed:"
SUFFIXES = (".json", ".jsonl", ".parquet")
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
LOADING_ERRORS = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)


class Part(NamedTuple):
    """One file or hub data set: its name for messages, its columns, its rows."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]] | Dataset


def read_parts(source: str, split: str) -> Iterator[Part]:
    """The files or data sets of a source that belong to a split, one after the other; raises `DataError`."""
    path = Path(source).expanduser()
    if source.startswith(TESTBED):
        yield _read_testbed(source, split)
    elif path.is_dir():
        yield from map(read_file, _files_of_split(path, split))
    elif path.exists():
        if split != "train":
            raise DataError(f"a single file has no splits, but split={split!r} was asked of {path}; drop the split")
        yield read_file(path)
    elif path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise DataError(f"the data must exist, but there is no file or directory {path}; correct the path")
    else:
        yield _read_hub(source, split)


def _files_of_split(directory: Path, split: str) -> list[Path]:
    files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    wanted = SPLITS.get(split, split)
    chosen = [path for path in files if SPLITS.get(re.split(r"[-_.]", path.name)[0], "train") == wanted]
    if not chosen:
        found = ", ".join(path.name for path in files) or "none"
        raise DataError(
            f"{directory} must hold {', '.join(SUFFIXES)} files of the split {split!r}, but it has none "
            f"(such files in it: {found}); name a file instead, or another split"
        )
    return chosen


def read_file(path: Path) -> Part:
    """The rows of one local file; raises `DataError` with path and line where it cannot be read."""
    if path.suffix == ".parquet":
        try:
            return _part(str(path), Dataset.from_parquet(str(path)))
        except LOADING_ERRORS as error:
            raise DataError(f"{path} must be a parquet file, but it cannot be read: {error}") from error
    if path.suffix not in SUFFIXES:
        raise DataError(f"a data file must be one of {', '.join(SUFFIXES)}, but it is {path}; convert it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a readable UTF-8 file: {error}") from error
    return _part(str(path), _parse_json(path, text))


def _read_testbed(source: str, split: str) -> Part:
    """Items made on the spot: those to fine-tune on for `train`, else the held-out ones of the split."""
    name, _, count = source.removeprefix(TESTBED).partition(":")
    splits: dict[str, Split] = {"train": "finetune", "validation": "validation", "test": "test"}
    if split not in splits or (count and not count.isdigit()):
        raise DataError(
            f"a testbed task is testbed:FAMILY[:COUNT] with a split of {list(splits)}; got {source}, {split}"
        )
    number = int(count) if count else FINETUNE_ITEMS if split == "train" else HELD_OUT_ITEMS
    try:
        made = items(name, splits[split], number)
    except (ValueError, ImportError) as error:
        raise DataError(f"{source}: {error}") from error
    return _part(source, [{"prompt": item.question, "completion": item.answer} for item in made])


def _read_hub(source: str, split: str) -> Part:
    name, _, config = source.partition(":")
    try:
        return _part(source, load_dataset(name, config or None, split=split))
    except LOADING_ERRORS as error:
        raise DataError(
            f"{source!r} is no local file or directory, and the split {split!r} of a hub data set of this name "
            f"cannot be loaded: {error}"
        ) from error


def _part(name: str, rows: list[dict[str, Any]] | Dataset) -> Part:
    if not len(rows):
        raise DataError(f"a data set must have rows, but {name} is empty")
    return Part(name, rows.column_names if isinstance(rows, Dataset) else list(rows[0]), rows)


def _parse_json(path: Path, text: str) -> list[dict[str, Any]]:
    """A list of objects, or one object per line. Lines end at newlines only: U+2028 may stand inside a string."""
    if text.lstrip().startswith("["):
        rows = _parse_value(path, text, first_line=1)
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [_parse_value(path, line, first_line=number) for number, line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a row must be a JSON object, but it is a {type(row).__name__}")
    return rows


def _parse_value(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {first_line + error.lineno - 1}: this is not valid JSON ({error.msg}); "
            "a file holds one list of objects, or one object per line"
        ) from error
