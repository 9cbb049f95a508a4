"""A task: where its questions are, how a row becomes a question, and how an answer is read.

A task reads two kinds of rows. Rows in the LLM-Adapters format (`instruction`, `input`, `output`, `answer`) are asked
as `training.formats.read_alpaca` renders them. Rows of the original data set are first worded like those, so that both
give one prompt, and it is the prompt that training used.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import load_dataset

from expert_condenser.data.formats import Example, Message, Row, read_alpaca, text_of
from expert_condenser.data.sources import LOADING_ERRORS, Part, read_file
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import AnswerKind

SPLITS = ("train", "validation", "test")
ALIASES = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}
"""Names that a split has in file names."""
SUFFIXES = (".json", ".jsonl", ".parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)")
CONVERTED = "refs/convert/parquet"
"""The hub's own copy of a data set that is published as a script, which `datasets` does not run."""


@dataclass(frozen=True)
class Question:
    """One item; `reference` is the whole answer as training would write it, or empty where there is none."""

    id: str
    prompt: list[Message]
    gold: str
    reference: str


@dataclass(frozen=True)
class LoadedTask:
    """A task with its questions."""

    name: str
    questions: list[Question]
    answer: AnswerKind
    max_new_tokens: int


class Asked(NamedTuple):
    """A row as training reads it, and its gold answer as it is written there."""

    example: Example
    gold: str
    has_reference: bool = True


@dataclass(frozen=True)
class Reader:
    """The columns that mark a format, and what becomes of its rows."""

    columns: tuple[str, ...]
    read: Callable[[Row], Asked]


@dataclass(frozen=True)
class Hub:
    """A data set on the hub. `test` is the split that is asked for by `test`: another one where that has no answers."""

    name: str
    config: str | None = None
    revision: str | None = None
    test: str = "test"


@dataclass(frozen=True)
class Task:
    """A benchmark; `files` are the stems of its local files and folders, the preferred one first."""

    name: str
    hub: Hub | None
    files: tuple[str, ...]
    answer: AnswerKind
    readers: tuple[Reader, ...]
    max_new_tokens: int

    def questions(self, data: Path | None, limit: int | None, split: str) -> list[Question]:
        """The first `limit` questions of a file, a directory or, without `data`, the hub; raises `DataError`."""
        part = self._from_hub(split) if data is None else _read_files(self._files(data.expanduser(), split))
        reader = next((reader for reader in self.readers if set(reader.columns) <= set(part.columns)), None)
        if reader is None:
            known = "; ".join(", ".join(reader.columns) for reader in self.readers)
            raise DataError(
                f"{part.name}: the columns of {self.name} are one of: {known}; got {', '.join(part.columns)}; "
                "rename them, or name another file"
            )
        return [self._question(part.name, reader, at, row) for at, row in enumerate(islice(part.rows, limit))]

    def _question(self, source: str, reader: Reader, position: int, row: Row) -> Question:
        try:
            (prompt, reference), gold, has_reference = reader.read(row)
            read = self.answer.read_gold(gold)
            if read is None:
                raise DataError(
                    f"the gold answer of {self.name} must be {self.answer.wanted}, but it is {gold[:60]!r}; correct "
                    "it, or name a split that has answers"
                )
        except DataError as error:
            raise DataError(f"{source}, row {position + 1}: {error}") from error
        return Question(str(position), prompt, read, reference[0]["content"] if has_reference else "")

    def _from_hub(self, split: str) -> Part:
        if self.hub is None:
            raise DataError(
                f"{self.name} has no data set on the hub; name a file or directory that holds "
                f"{' or '.join(f'{stem}.json' for stem in self.files)}"
            )
        wanted = self.hub.test if split == "test" else split
        try:
            rows = load_dataset(self.hub.name, self.hub.config, split=wanted, revision=self.hub.revision)
        except LOADING_ERRORS as error:
            raise DataError(
                f"{self.name}: the split {wanted!r} of the hub data set {self.hub.name!r} cannot be loaded: {error}; "
                "download it, and name its file or directory"
            ) from error
        return Part(f"{self.hub.name} ({wanted})", rows.column_names, rows)

    def _files(self, data: Path, split: str) -> list[Path]:
        """The file of the task: `data` itself, or the best match in a directory, in either case of letters.

        Several files are the shards of one set, `test-00000-of-00002.parquet` and so on, all of them, in order.
        """
        if data.is_dir():
            here: dict[str, Path] = {}
            for path in sorted([*data.glob("*"), *data.glob("*/*")]):
                key = path.relative_to(data).as_posix().lower()
                here |= {key: path, f"{data.resolve().name.lower()}/{key}": path} if path.is_file() else {}
            wanted = self._file_names(split)
            matches = ([path for key, path in here.items() if fnmatch(key, name)] for name in wanted)
            if found := next(filter(None, matches), None):
                return _whole(found)
            shown = ", ".join(name for name in wanted if name.endswith(SUFFIXES[0]))
            raise DataError(
                f"{data} must hold the {split} questions of {self.name}, but has none of: {shown} (nor these as "
                f"{' or '.join(SUFFIXES[1:])}); rename the file, or name it"
            )
        if not data.exists():
            raise DataError(f"the data must exist, but there is no file or directory {data}; correct the path")
        if split != "test":
            raise DataError(f"a single file has no splits, but split={split!r} was asked of {data}; drop the split")
        return [data]

    def _file_names(self, split: str) -> list[str]:
        """Patterns in lower case: `gsm8k.json`, `gsm8k_test.jsonl`, `gsm8k/test.json`, `gsm8k/test-00000….parquet`."""
        labelled = self.hub.test if self.hub and split == "test" else split
        splits = [alias for each in dict.fromkeys((split, labelled)) for alias in ALIASES[each]]
        stems = [stem.lower() for stem in self.files]
        ends = [f"{mark}{each}" for mark in "_-/" for each in splits]
        ends = ["", *ends] if split == "test" else ends
        names = [f"{stem}{end}{suffix}" for stem in stems for end in ends for suffix in SUFFIXES]
        return names + [f"{stem}/{each}-*.parquet" for stem in stems for each in reversed(splits)]


def _whole(files: list[Path]) -> list[Path]:
    """The shards of a set in their order; raises `DataError` unless each of the `of-N` in their names is there once."""
    numbered = {path: SHARD.search(path.stem) for path in files}
    marks = [
        (int(found[1]), int(found[2])) if found else (at, len(files)) for at, found in enumerate(numbered.values())
    ]
    if sorted(marks) != [(at, marks[0][1]) for at in range(marks[0][1])]:
        raise DataError(
            f"{files[0].parent} must hold each of {marks[0][1]} shards once, as their names say, but it has "
            f"{', '.join(path.name for path in files)}; add those that are missing, or remove the others"
        )
    return [path for _, path in sorted(zip(marks, files, strict=True))]


def _read_files(files: list[Path]) -> Part:
    """The rows of all the files, one after the other."""
    parts = [read_file(path) for path in files]
    if len(parts) == 1:
        return parts[0]
    first, *others = parts
    odd = next((part for part in others if set(part.columns) != set(first.columns)), None)
    if odd is not None:
        raise DataError(
            f"the shards of a set have the same columns, but {first.name} has {', '.join(first.columns)} and "
            f"{odd.name} has {', '.join(odd.columns)}; download them again"
        )
    rows = [row for part in parts for row in part.rows]
    return Part(f"{first.name} to {files[-1].name}", first.columns, rows)


def alpaca(style: str) -> Reader:
    """Rows in the LLM-Adapters format."""

    def read(row: Row) -> Asked:
        return worded(row, text_of(row.get("answer")), style, instruction=need(row, "instruction"))

    return Reader(("instruction", "answer"), read)


def worded(row: Row, gold: str, style: str, *, instruction: str, output: Any = None) -> Asked:
    """A row's question in this wording; its reference is `output`, else the row's own, where there is one.

    Commonsense answers ("plain") that are not written out are worded as in LLM-Adapters.
    """
    if not gold.strip():
        raise DataError("every row needs an answer, but this one has none; name a split that has answers")
    written = row.get("output") if output is None else output
    if style == "plain" and not text_of(written).strip():
        written = f"the correct answer is {gold}"
    full = {"instruction": instruction, "input": row.get("input"), "output": text_of(written), "answer": gold}
    return Asked(read_alpaca(full, style), gold, has_reference=written is not None)


def need(row: Row, column: str) -> str:
    """The text of a column that every row must have."""
    text = text_of(row.get(column))
    if not text.strip():
        raise DataError(f"every row needs a value in {column!r}, but this one has none; add it or drop the row")
    return text


def choices_of(row: Row, column: str, count: Sequence[int] = range(2, 11)) -> list[str]:
    """The texts of a column that is a list of choices."""
    value = row.get(column)
    if not isinstance(value, list) or len(value) not in count or not all(isinstance(text, str) for text in value):
        raise DataError(
            f"{column!r} must be a list of {min(count)} to {max(count)} texts, but it is {str(value)[:60]!r}"
        )
    return value
