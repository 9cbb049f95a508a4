"""One file of rows: JSON, one object per line or a list of them; CSV; parquet."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset

from expert_condenser.data.splits import SUFFIXES
from expert_condenser.errors import DataError

LOADING_ERRORS = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)


def without_fill(value: Any) -> Any:
    """A value of a table without the keys that only other rows have: parquet and Arrow write None for them."""
    if isinstance(value, dict):
        return {key: without_fill(part) for key, part in value.items() if part is not None}
    return [without_fill(part) for part in value] if isinstance(value, list) else value


class Part(NamedTuple):
    """One file or hub data set: its name for messages, its columns, its rows."""

    name: str
    columns: list[str]
    rows: list[dict[str, Any]] | Dataset
    lines: list[int] | None = None
    """Where each row begins in a file that has one row per line, counted from 1."""

    def number(self, number: int) -> int:
        """The line of a row where rows have lines, else its number, counted from 1."""
        return self.lines[number - 1] if self.lines else number

    def origin(self, number: int) -> str:
        """The place of a row, counted from 1: `rows.jsonl, line 3`."""
        return f"{self.name}, line {self.lines[number - 1]}" if self.lines else f"{self.name}, row {number}"


def read_file(path: Path) -> Part:
    """The rows of one local file; raises `DataError` with path and line where it cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            return part_of(str(path), Dataset.from_parquet(str(path)))
        except LOADING_ERRORS as error:
            raise DataError(f"{path} must be a parquet file, but it cannot be read: {error}") from error
    if suffix not in SUFFIXES:
        raise DataError(f"a data file must be one of {', '.join(SUFFIXES)}, but it is {path}; convert it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a readable UTF-8 file: {error}") from error
    if suffix == ".csv":
        return part_of(str(path), *_parse_csv(path, text))
    return part_of(str(path), *_parse_json(path, text))


def part_of(name: str, rows: list[dict[str, Any]] | Dataset, lines: list[int] | None = None) -> Part:
    """The rows with all of their columns; raises `DataError` where there is none."""
    if not len(rows):
        raise DataError(f"a data set must have rows, but {name} is empty")
    if isinstance(rows, Dataset):
        return Part(name, rows.column_names, rows, lines)
    return Part(name, list(dict.fromkeys(column for row in rows for column in row)), rows, lines)


def _parse_json(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int] | None]:
    """One object per line, or a list of objects: bare, or the only list of a file that is one object.

    Also the line of each row where it has one of its own. Lines end at newlines only: U+2028 may stand inside a string.
    """
    lines = None
    if text.lstrip().startswith("["):
        rows = _parse_value(path, text, first_line=1)
    elif _is_one_value(text):
        value = json.loads(text)
        rows = _rows_within(path, value)
        lines = [text[: text.index("{")].count("\n") + 1] if rows == [value] else None
    else:
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = [_parse_value(path, line, first_line=number) for number, line in numbered]
        lines = [number for number, _ in numbered]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a row must be a JSON object, but it is a {type(row).__name__}")
    return rows, lines


def _is_one_value(text: str) -> bool:
    """Whether a text is one JSON object, on one line or several."""
    first, _, rest = text.strip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and not rest
    except (ValueError, RecursionError):
        pass
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _rows_within(path: Path, value: Any) -> list[Any]:
    """The rows of a file that is one object: `{"data": [...]}`, or that object itself."""
    if not isinstance(value, dict):
        return [value]
    lists = {
        name: part for name, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)
    }
    if len(lists) > 1:
        raise DataError(
            f"{path} holds one object with several lists ({', '.join(lists)}); keep the one that has the rows"
        )
    is_row = not lists or any(name in lists for name in ("messages", "conversations", "completion", "prompt"))
    return [value] if is_row else next(iter(lists.values()))


def _is_row(value: Any) -> bool:
    return isinstance(value, dict)


def _parse_csv(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a table with a header; every value is text."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    limit = csv.field_size_limit(max(len(text), 131072))  # of the process, so it is set back
    try:
        line = 2
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {line}: a row must have as many values as the header; correct it")
            rows.append(dict(row))
            lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: this is no CSV ({error}); correct it") from error
    finally:
        csv.field_size_limit(limit)
    return rows, lines


def _parse_value(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {first_line + error.lineno - 1}: this is not valid JSON ({error.msg}); "
            "a file holds one list of objects, or one object per line"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise DataError(f"{path}, from line {first_line} on: a row must be flat and short, but {error}") from error
