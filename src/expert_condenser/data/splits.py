"""Which names are data files, and which split each belongs to: the hub's rule, on names alone.

`gsm8k_test.jsonl`, `Test.json` and `eval/part-3.parquet` are test files; `latest.jsonl` names no split. The rule is
that of huggingface.co/docs/hub/datasets-file-names-and-splits, but for five points. Letters of either case are equal.
`myTest`, `testset` and `testdata` name a split too. A
name of two splits is an error (the hub takes such a file twice, or by its folder), and so is a file that names none
beside files that do (the hub drops it in silence). Splits of other names, `data/name-00000-of-00001`, are not known.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from expert_condenser.errors import DataError

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".ndjson")
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The splits, each with the words that name it."""
SPLITS = tuple(KEYWORDS)
METADATA = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "config.json")
"""What `save_to_disk` and the hub write beside the rows."""

_PACKED = re.compile(r"\.(jsonl?|ndjson|csv|parquet)\.(gz|bz2|xz|zst|zip|lz4)$|\.(tsv|xlsx|feather)$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_. /0-9]+|(?<=[a-z])(?=[A-Z])")
_SPLIT_OF = {
    f"{word}{tail}": split
    for split, words in KEYWORDS.items()
    for word in words
    for tail in ("", "set", "data", "split")
}


def known_split(split: str) -> str:
    """The split that a word means: `dev` is `validation`; any other word is its own split."""
    return _SPLIT_OF.get(split, split)


def is_data_file(name: str) -> bool:
    """Whether a name, with its folders, is that of a data file: of a known suffix, not hidden, no metadata."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts) or any(is_special(part) for part in path.parts[:-1])
    return path.suffix.lower() in SUFFIXES and not hidden and path.name.lower() not in METADATA


def is_packed(name: str) -> bool:
    """Whether a name is that of data in a form that is not read here: compressed, or of another suffix."""
    path = PurePosixPath(name)
    return _PACKED.search(name) is not None and not any(part.startswith(".") for part in path.parts)


def is_special(folder: str) -> bool:
    """Whether a folder of this name holds no data files: `.git`, `__pycache__`."""
    return folder.startswith((".", "__"))


def split_in(name: str) -> str | None:
    """The split that a name or one of its folders says, as a whole word; raises `DataError` where it says two."""
    words = [word.lower() for word in _SEPARATORS.split(name)]
    said = list(dict.fromkeys(_SPLIT_OF[word] for word in words if word in _SPLIT_OF))
    if len(said) > 1:
        raise DataError(f"a file belongs to one split, but {name} names {' and '.join(said)}; rename it, or move it")
    return said[0] if said else None


def by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each split, in the order given; all of them are `train` where none names a split.

    Raises `DataError` where a name says two splits, or none beside names that do.
    """
    splits = {name: split_in(name) for name in names}
    unclear = [name for name, split in splits.items() if split is None]
    clear = next((name for name, split in splits.items() if split is not None), None)
    if clear is not None and unclear:
        raise DataError(
            f"every file must name its split where one does: {clear} is {splits[clear]}, but {len(unclear)} of "
            f"{len(splits)} files name none of {', '.join(SPLITS)}: {', '.join(unclear[:5])}; rename what is data "
            f"(train-{PurePosixPath(unclear[0]).name}), move what is not, or name one file"
        )
    groups: dict[str, list[str]] = {}
    for name, split in splits.items():
        groups.setdefault(split or "train", []).append(name)
    return groups
