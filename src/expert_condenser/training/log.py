"""`metrics.jsonl`: a line per log entry. A killed process may leave half a line, and lines behind its checkpoint."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger

from expert_condenser.errors import DataError
from expert_condenser.files import json_object, read_text, write_text

logger = get_logger(__name__)


def mend(path: Path) -> None:
    """End the last line, or take it off where it was cut short; raises `DataError` on another one that is no entry."""
    if not path.exists():
        return
    text = path.read_bytes().decode("utf-8", errors="replace")
    whole, _, rest = text.rpartition("\n")
    entries = _entries(path, whole)
    if not rest:
        return
    with suppress(DataError):
        _write(path, [*entries, _entry(path, len(entries) + 1, rest)])
        return
    logger.warning(f"{path}: its last line was cut short by a crash, and is dropped")
    _write(path, entries)


def rewind(path: Path, phase: str, step: int) -> None:
    """Drop what a phase logged after its checkpoint at `step`."""
    if path.exists():
        entries = read_entries(path)
        kept = [entry for entry in entries if entry["phase"] != phase or entry["step"] <= step]
        if len(kept) < len(entries):
            _write(path, kept)


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Every whole line, with its `phase` and `step`; raises `DataError` on one that is no entry."""
    return _entries(path, read_text(path).rpartition("\n")[0])


def _entries(path: Path, text: str) -> list[dict[str, Any]]:
    return [_entry(path, number, line) for number, line in enumerate(text.split("\n"), start=1)] if text else []


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json_object(line)
    except DataError as error:
        raise _no_entry(path, number, str(error)) from error
    if type(entry.get("phase")) is not str or type(entry.get("step")) is not int:
        raise _no_entry(path, number, f"it has no phase and step, but {sorted(entry)}")
    return entry


def _no_entry(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"{path} has one log entry a line, and line {number} is none ({why}); restore it, or delete that line"
    )


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
