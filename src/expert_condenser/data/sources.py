"""Where rows come from: local files and directories, the hub, and the testbed's families.

A source is a local .json, .jsonl, .csv or .parquet file, a directory of these, a folder that `save_to_disk` wrote, a
data set on the hub (`name` or `name:config`), or a task of the testbed (`testbed:FAMILY` or `testbed:FAMILY:COUNT`).
What exists locally is never looked up on the hub. A directory is read at every level; `splits` says which of its files
belong to which split.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import load_dataset, load_from_disk

from expert_condenser.data.card import declared_splits
from expert_condenser.data.procedural.families import FINETUNE_ITEMS, HELD_OUT_ITEMS, Split, items
from expert_condenser.data.readers import LOADING_ERRORS, Part, part_of, read_file
from expert_condenser.data.shards import in_order
from expert_condenser.data.splits import SUFFIXES, by_split, is_data_file, is_packed, is_special, known_split
from expert_condenser.errors import DataError

TESTBED = "testbed:"


@dataclass(frozen=True)
class DataFile:
    """A file, or a data set that is no file, and how many rows it has."""

    path: str
    rows: int


@dataclass(frozen=True)
class DataFiles:
    """What a source holds, by split: the files that are `read`, and the paths of those that are not, `unread`."""

    read: dict[str, list[DataFile]]
    unread: dict[str, list[str]]


def files_of(source: str, split: str = "train") -> DataFiles:
    """The files that `read_parts` reads, with their rows, and those that it leaves; raises `DataError`."""
    read = [DataFile(part.name, len(part.rows)) for part in read_parts(source, split)]
    path = Path(source).expanduser()
    of_files = path.is_dir() and not source.startswith(TESTBED) and not _saved_to_disk(path)
    others = _by_split(path) if of_files else {}
    wanted = known_split(split)
    return DataFiles({wanted: read}, {name: list(map(str, files)) for name, files in others.items() if name != wanted})


def read_parts(source: str, split: str) -> Iterator[Part]:
    """The files or data sets of a source that belong to a split, one after the other; raises `DataError`."""
    path = Path(source).expanduser()
    if source.startswith(TESTBED):
        yield _read_testbed(source, split)
    elif path.is_dir() and (saved := _saved_to_disk(path)):
        yield _read_saved(path, saved, split)
    elif path.is_dir():
        yield from map(read_file, _files_of_split(path, split))
    elif path.exists():
        if split != "train":
            raise DataError(f"a single file has no splits, but split={split!r} was asked of {path}; drop the split")
        yield read_file(path)
    elif path.suffix.lower() in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise DataError(f"the data must exist, but there is no file or directory {path}; correct the path")
    else:
        yield _read_source_on_hub(source, split)


def find_files(directory: Path) -> dict[str, Path]:
    """The data files at every level of a directory by their names from there (`data/train.json`), sorted.

    Raises `DataError` where a folder cannot be read.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for root, folders, files in os.walk(directory, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(root)) in seen:  # a link leads to it a second time, from inside it maybe
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_special(name))
        found += [Path(root, name) for name in files]
    names = {path.relative_to(directory).as_posix(): path for path in sorted(found)}
    if packed := [name for name in names if is_packed(name)]:
        raise DataError(
            f"{directory} must hold files that can be read ({', '.join(SUFFIXES)}), but {', '.join(packed[:3])} would "
            "be left out; unpack or convert it, or move it"
        )
    return {name: path for name, path in names.items() if is_data_file(name)}


def _refuse(error: OSError) -> None:
    raise DataError(f"every folder of the data must be readable, but {error}; grant access, or move it") from error


def _by_split(directory: Path) -> dict[str, list[Path]]:
    files = find_files(directory)
    try:
        splits = declared_splits(directory, [*files]) or by_split(files)
        return {split: [files[name] for name in names] for split, names in splits.items()}
    except DataError as error:
        raise DataError(f"{directory}: {error}") from error


def _files_of_split(directory: Path, split: str) -> list[Path]:
    splits = _by_split(directory)
    chosen = splits.get(known_split(split))
    if not chosen:
        found = ", ".join(path.relative_to(directory).as_posix() for files in splits.values() for path in files)
        raise DataError(
            f"{directory} must hold {', '.join(SUFFIXES)} files of the split {split!r}, but it has none "
            f"(such files in it: {found or 'none'}); name a file instead, or another split{_arrow_hint(directory)}"
        )
    return in_order(chosen)


def _arrow_hint(directory: Path) -> str:
    saved = next(directory.rglob("*.arrow"), None)
    return f"; {saved} is of save_to_disk: name the folder that was saved" if saved else ""


def _saved_to_disk(directory: Path) -> str:
    """Which of the two things that `save_to_disk` writes a folder holds: `splits`, `rows`, or neither."""
    if (directory / "dataset_dict.json").is_file():
        return "splits"
    return "rows" if (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file() else ""


def _read_saved(directory: Path, kind: str, split: str) -> Part:
    """The rows that `save_to_disk` wrote."""
    try:
        found = load_from_disk(str(directory))
    except LOADING_ERRORS as error:
        raise DataError(f"{directory} must hold what save_to_disk wrote, but it cannot be read: {error}") from error
    if kind == "rows" and split != "train":
        raise DataError(f"one data set has no splits, but split={split!r} was asked of {directory}; drop the split")
    if kind == "splits":
        names = {known_split(name): name for name in found}
        if known_split(split) not in names:
            raise DataError(f"{directory} has the splits {', '.join(found)}, but {split!r} was asked; name one of them")
        found = found[names[known_split(split)]]
    return part_of(str(directory), found)


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
    return part_of(source, [{"prompt": item.question, "completion": item.answer} for item in made])


def _read_source_on_hub(source: str, split: str) -> Part:
    name, _, config = source.partition(":")
    try:
        return read_hub(name, config or None, split)._replace(name=source)
    except DataError as error:
        raise DataError(f"{source!r} is no local file or directory, and {error}") from error


def read_hub(name: str, config: str | None, split: str, revision: str | None = None) -> Part:
    """A split of a data set on the hub; raises `DataError` where it cannot be loaded or is empty."""
    try:
        rows = load_dataset(name, config, split=split, revision=revision)
    except LOADING_ERRORS as error:
        raise DataError(f"the split {split!r} of the hub data set {name!r} cannot be loaded: {error}") from error
    return part_of(f"{name} ({split})", rows)
