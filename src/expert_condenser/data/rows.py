"""The rows of a source as conversations, each with its place, and those that are none with the reason."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from expert_condenser.data.columns import unused
from expert_condenser.data.conversation import Conversation
from expert_condenser.data.formats import RowFormat, choose_format
from expert_condenser.data.readers import Part, without_fill
from expert_condenser.data.reading import read_row
from expert_condenser.data.report import RefusedRow
from expert_condenser.data.sources import DataFile, read_parts
from expert_condenser.errors import DataError

ON_BAD_ROW = ("error", "skip")


@dataclass
class Rows:
    """The conversations of a source, and what was found on the way."""

    split: str
    conversations: list[Conversation] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    unused_columns: list[str] = field(default_factory=list)


def load_rows(
    source: str,
    split: str = "train",
    *,
    data_format: str = "auto",
    answer_style: str = "auto",
    limit: int | None = None,
    ignore: Collection[str] = (),
    on_bad_row: str = "error",
    survey: bool = False,
) -> Rows:
    """The source's rows as conversations; `limit` keeps the first rows only.

    Raises `DataError`, by `on_bad_row` also where a row is none; a `survey` notes such rows, however many.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, but it is {limit}; leave it out to take every row")
    if on_bad_row not in ON_BAD_ROW:
        raise DataError(f"on_bad_row is one of {', '.join(ON_BAD_ROW)}, but it is {on_bad_row!r}")
    rows = Rows(split)
    for part in read_parts(source, split):
        chosen = _choose_format(part, data_format, answer_style)
        left = len(part.rows) if limit is None else limit - len(rows.conversations)
        for name in unused(part.columns, {*chosen.all_columns, *ignore}):
            if name not in rows.unused_columns:
                rows.unused_columns.append(name)
        rows.files.append(DataFile(part.name, len(part.rows)))
        _read_into(rows, part, chosen, answer_style, ignore, left)
        if limit is not None and len(rows.conversations) >= limit:
            break
    if not survey and (on_bad_row == "error" or not rows.conversations):
        check_refused(rows.refused)
    return rows


def check_refused(refused: Sequence[RefusedRow]) -> None:
    """Raise `DataError` that names the first of the rows that cannot be trained."""
    if refused:
        more = f" ({len(refused) - 1} more such rows; on_bad_row: skip leaves them out)" if refused[1:] else ""
        raise DataError(f"{refused[0]}{more}")


def _choose_format(part: Part, data_format: str, answer_style: str) -> RowFormat:
    try:
        return choose_format(part.columns, data_format, answer_style)
    except DataError as error:
        raise DataError(f"{part.name}: {error}") from error


def _rows_of(part: Part) -> Iterator[Mapping[str, Any]]:
    """Rows as they were written; raises `DataError` where a binary file has text that is none."""
    number, is_filled = 0, isinstance(part.rows, Dataset)
    try:
        for number, row in enumerate(part.rows, start=1):  # noqa: B007
            yield {key: without_fill(value) for key, value in row.items()} if is_filled else row
    except UnicodeDecodeError as error:
        raise DataError(
            f"{part.origin(number + 1)}: text is UTF-8, and here are other bytes ({error.reason}); write the file again"
        ) from error


def _read_into(rows: Rows, part: Part, chosen: RowFormat, style: str, ignore: Collection[str], limit: int) -> None:
    for number, row in enumerate(_rows_of(part), start=1):
        if limit <= 0:
            return
        origin = part.origin(number)
        try:
            rows.conversations.append(read_row(row, chosen, style, ignore, origin))
            limit -= 1
        except DataError as error:
            rows.refused.append(RefusedRow(part.name, part.number(number), str(error), origin))
