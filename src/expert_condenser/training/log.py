"""`metrics.jsonl`: a line per log entry. A killed process may leave half a line, and lines behind its checkpoint."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger

from expert_condenser.errors import DataError
from expert_condenser.files import write_text

logger = get_logger(__name__)


def mend(path: Path) -> None:
    """End the last line, or take it off where it was cut short; raises `DataError` on another one that is no entry."""
    if not path.exists():
        return
    text = path.read_bytes().decode("utf-8", errors="replace")
    whole, _, rest = text.rpartition("\n")
    entries = [_entry(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]
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
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [_entry(path, number, line) for number, line in enumerate(lines, start=1)]
        kept = [entry for entry in entries if entry["phase"] != phase or entry["step"] <= step]
        if len(kept) < len(entries):
            _write(path, kept)


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
        entry["phase"], entry["step"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} has one log entry a line, and line {number} is none ({error!r}); restore it, or delete that line"
        ) from error
    return entry


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
