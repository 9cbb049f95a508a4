"""JSON on disk: one atomic writer, readers that name the file and the line, digests, manifests of folders."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError, StorageError

MANIFEST = "manifest.json"
DIGESTED_BYTES = 32 * 2**20
"""A manifest has the digests of files up to this size; larger ones are weights, whose size and header are checked."""
_PARTIAL = ".{}.partial"
_CARD = "README.md"
_LONGEST_NAME = 255
"""Bytes, on nearly every file system."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def local_path(name: str | Path) -> Path:
    """A path as a person writes it: `~` at its start is the home directory."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # a `~name` that is nobody's home is a name like any other
        return Path(name)


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file in a folder, and of nothing above, below or beside it."""
    fits = len(name.encode(errors="surrogatepass")) <= _LONGEST_NAME
    return fits and name not in ("", ".", "..") and not {"/", os.sep, "\0"} & {*name}


def is_path_within(name: str) -> bool:
    """Whether a name is that of a file in a folder or in one below it; also a pattern of such names."""
    return not Path(name).is_absolute() and all(map(is_file_name, Path(name).parts)) and bool(Path(name).parts)


@contextmanager
def storage_errors(path: Path, size: int | None = None) -> Iterator[None]:
    """Raise `StorageError` in place of an `OSError` while `path` is written; `size` is of its new content, in bytes."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(_not_written(path, size, error)) from error


def _not_written(path: Path, size: int | None, error: OSError) -> str:
    if error.errno not in _FULL:
        return f"{path} must be writable: {error}; what was there is as it was"
    free = free_bytes(path.parent)
    missing = "" if size is None else f" of {size:,} bytes at least {max(size - free, 1):,} are missing;"
    return f"the disk of {path} is full:{missing} {free:,} are free ({error}); what was there is as it was. Make room."


@contextmanager
def full_disk_named(folder: Path, missing: Callable[[], int] | None = None) -> Iterator[None]:
    """Raise `StorageError` in place of what other libraries raise when the disk of `folder` has no room left.

    `missing` computes how many bytes it lacked, where that can be told.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        # safetensors and torch wrap the system's error in their own; some of torch's say only which file they were at.
        if not re.search(
            r"No space left on device|Disk quota exceeded|inline_container|PytorchStreamWriter", str(error)
        ):
            raise
        lacking = "" if missing is None else f" at least {missing():,} bytes are missing,"
        raise StorageError(
            f"the disk of {folder} is full:{lacking} {free_bytes(folder):,} bytes are left ({error}). What was "
            "finished is whole: make room, and go on with --resume."
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes left on the disk of a path, which need not exist yet."""
    return shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())).free


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when all of it is on the disk, and not before.

    After a crash at any moment `path` is what it was, or whole and new. Raises `StorageError`, which leaves `path`
    alone and says how many of `size` bytes were missing.
    """
    partial = path.with_name(_PARTIAL.format(path.name))
    with storage_errors(path, size):
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)  # the new name is on the disk too


def is_partial(name: str) -> bool:
    """Whether a file of this name is what a crash left of another one."""
    before, after = _PARTIAL.split("{}")
    return name.startswith(before) and name.endswith(after)


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(handle: int, content: bytes) -> None:
    """All of it to an open file: the system may take it in parts."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    content = text.encode()
    with replacing(path, len(content)) as partial:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_bytes(handle, content)
        finally:
            os.close(handle)


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write JSON, whole or not at all. Raises `TypeError` or `ValueError` on content that JSON cannot hold."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """The content of a text file; raises `DataError` with the path where it cannot be read."""
    try:
        if path.is_fifo() and not path.is_relative_to("/dev"):  # a shell's `<(...)` is there, and somebody writes to it
            raise DataError(f"{path} must be a readable file of UTF-8; it is a named pipe")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a readable file of UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises `DataError` with the path and the line where it has none."""
    try:
        return json.loads(read_text(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `DataError` where it has none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a JSON object; got a {type(content).__name__}; write it again")
    return content


def json_object(text: str) -> dict[str, Any]:
    """An object of JSON, such as a line of a log; raises `DataError` where the text is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"this is no JSON object, but a {type(value).__name__}")
    return value


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number: true and false are none, which Python counts among the integers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def append_line(path: Path, content: Any) -> None:
    """Add one line of JSON to a log, whole or not at all."""
    line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
    with storage_errors(path, len(line)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = os.fstat(handle).st_size
            try:
                write_bytes(handle, line)
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def move_into(source: Path, target: Path) -> None:
    """Put every file of a folder into another one on the same disk, in place of those of the same name, each whole."""
    with storage_errors(target):
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            _sync(file)
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
        shutil.rmtree(source)


def digest(content: Any) -> str:
    """A fingerprint of any JSON: 16 hexadecimal digits, equal for equal content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def write_manifest(folder: Path) -> None:
    """Close a folder: the size of every file in bytes and the digest of a small one, once all are on the disk."""
    entries = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file != folder / MANIFEST:
            with storage_errors(file):
                _sync(file)  # after a power cut, too, what the manifest says is there
            entries[str(file.relative_to(folder))] = _entry(file)
    write_json(folder / MANIFEST, entries)


def _entry(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    if size > DIGESTED_BYTES:
        return {"size": size}
    return {"size": size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def differences(folder: Path) -> list[str]:
    """What is not as the manifest of a closed folder says, a text for each file; raises `DataError` without a manifest.

    A manifest of release 0.1 has sizes alone. What is for people (`README.md`) may change.
    """
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{folder / MANIFEST} holds a JSON object with every file; got {str(content)[:60]}")
    found = []
    for name, entry in content.items():
        if Path(name).name == _CARD:
            continue
        if not is_path_within(name):
            raise DataError(f"{folder / MANIFEST} has the files of its folder; got {name[:60]!r}")
        file, wanted = folder / name, entry if isinstance(entry, dict) else {"size": entry}
        if type(wanted.get("size")) is not int:
            raise DataError(f"{folder / MANIFEST} has the size of every file in bytes; got {entry!r} for {name}")
        if not file.is_file():
            found.append(f"{file} is missing")
        elif (size := file.stat().st_size) != wanted.get("size"):
            found.append(f"{file} has {size:,} bytes and had {wanted.get('size'):,}")
        elif "sha256" in wanted and _entry(file).get("sha256") != wanted["sha256"]:
            found.append(f"{file} was changed: its sha256 is another one")
    return found
