"""A task: where its questions are, how a row becomes a question, and how an answer is read.

A task reads two kinds of rows. Rows in the LLM-Adapters format (`instruction`, `input`, `output`, `answer`) are asked
as `data.formats.read_alpaca` renders them. Rows of the original data set are first worded like those, so that both
give one prompt, and it is the prompt that training used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from expert_condenser.data.conversation import Message
from expert_condenser.data.formats import Example, Row, read_alpaca, text_of
from expert_condenser.data.readers import Part, read_file
from expert_condenser.data.shards import whole
from expert_condenser.data.sources import find_files, read_hub
from expert_condenser.data.splits import KEYWORDS, SUFFIXES, split_in
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import AnswerKind

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
            (turns, _), gold, has_reference = reader.read(row)
            read = self.answer.read_gold(gold)
            if read is None:
                raise DataError(
                    f"the gold answer of {self.name} must be {self.answer.wanted}, but it is {gold[:60]!r}; correct "
                    "it, or name a split that has answers"
                )
        except DataError as error:
            raise DataError(f"{source}, row {position + 1}: {error}") from error
        return Question(str(position), turns[:-1], read, turns[-1]["content"] if has_reference else "")

    def _from_hub(self, split: str) -> Part:
        if self.hub is None:
            raise DataError(
                f"{self.name} has no data set on the hub; name a file or directory that holds "
                f"{' or '.join(f'{stem}.json' for stem in self.files)}"
            )
        wanted = self.hub.test if split == "test" else split
        try:
            return read_hub(self.hub.name, self.hub.config, wanted, self.hub.revision)
        except DataError as error:
            raise DataError(f"{self.name}: {error}; download it, and name its file or directory") from error

    def _files(self, data: Path, split: str) -> list[Path]:
        """The files of the task: `data` itself, or all shards of the best match in a directory."""
        if data.is_dir():
            return self._find(data, split)
        if not data.exists():
            raise DataError(f"the data must exist, but there is no file or directory {data}; correct the path")
        if split != "test":
            raise DataError(f"a single file has no splits, but split={split!r} was asked of {data}; drop the split")
        return [data]

    def _find(self, directory: Path, split: str) -> list[Path]:
        """The first of the patterns that has files, in either case of letters; the directory may be the task's own."""
        files = find_files(directory)
        own = directory.resolve().name
        here = {key.lower(): name for name in files for key in (name, f"{own}/{name}")}
        matches = ([name for key, name in here.items() if fnmatch(key, wanted)] for wanted in self._patterns(split))
        found = next(filter(None, matches), None)
        if found is None:
            shown = ", ".join(f"{name}{SUFFIXES[0]}" for name in self._names(split, [split]))
            raise DataError(
                f"{directory} must hold the {split} questions of {self.name}, but has none of: {shown} (nor these as "
                f"{' or '.join(SUFFIXES[1:])}); rename the file, or name it"
            )
        for name in found:
            split_in(name)  # what a wildcard matches may name another split besides
        return whole([files[name] for name in found])

    def _patterns(self, split: str) -> list[str]:
        """What is searched for, in lower case: the exact names, then the shards and folders of a copy of the hub's set.

        Where the published test split has no answers, a copy is asked for the split that has: it comes first there.
        """
        labelled = self.hub.test if self.hub and split == "test" else split
        words = [word for each in dict.fromkeys((split, labelled)) for word in KEYWORDS[each]]
        exact = [f"{name}{suffix}" for name in self._names(split, words) for suffix in SUFFIXES]
        inner = ["/data", f"/{self.hub.config}".lower()] if self.hub and self.hub.config else ["/data"]
        return exact + [
            f"{stem.lower()}{folder}/{word}{rest}"
            for stem in self.files
            for folder in ("", *inner)
            for word in reversed(words)
            for rest in ("-*.parquet", *(f"{between}{suffix}" for between in ("", "/*") for suffix in SUFFIXES))
        ]

    def _names(self, split: str, words: Sequence[str]) -> list[str]:
        """`gsm8k` (the test questions), `gsm8k_test`, `gsm8k-test`, `gsm8k/test` and so on, without a suffix."""
        ends = [f"{mark}{word}" for mark in "_-/" for word in words]
        return [f"{stem.lower()}{end}" for stem in self.files for end in (["", *ends] if split == "test" else ends)]


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
