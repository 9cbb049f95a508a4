"""JSON on disk: one atomic writer, readers that name the file and the line, digests, manifests of folders."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError

MANIFEST = "manifest.json"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when all of it is on the disk, and not before.

    After a crash at any moment `path` is what it was, or whole and new. Raises `OSError`, and then leaves `path` alone.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # the new name is on the disk too


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write JSON, whole or not at all. Raises `TypeError` or `ValueError` on content that JSON cannot hold."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises `DataError` with the path and the line where it has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be JSON: {error}") from error


def append_line(path: Path, content: Any) -> None:
    """Add one line of JSON to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")


def digest(content: Any) -> str:
    """A fingerprint of any JSON: 16 hexadecimal digits, equal for equal content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def write_manifest(folder: Path) -> None:
    """Close a folder: the sizes of its files in bytes, written after all of them."""
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    sizes.pop(MANIFEST, None)
    write_json(folder / MANIFEST, sizes)


def matches_manifest(folder: Path) -> bool:
    """Whether a folder was closed, and its files still have the sizes that they had then."""
    try:
        sizes = read_json(folder / MANIFEST)
    except DataError:
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
