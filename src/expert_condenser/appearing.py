"""A folder that is there only when it is whole: made beside its place, under a hidden name, and renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from expert_condenser.errors import UsageError
from expert_condenser.files import full_disk_named
from expert_condenser.ownership import ending_on_sigterm


def check_free(folder: Path) -> None:
    """Raise `UsageError` where the folder is there already, or cannot be."""
    if folder.exists():
        raise UsageError(f"--output_dir is a directory that is not there yet; {folder} is")
    above = _nearest(folder)
    if not above.is_dir():
        raise UsageError(f"--output_dir is a directory in directories, and {above} is a file, which is none")


def _nearest(folder: Path) -> Path:
    """The folder above it that is there."""
    return next(parent for parent in folder.absolute().parents if parent.exists())


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield the hidden folder to write to; whatever ends the work before its end leaves nothing."""
    check_free(folder)
    above = _nearest(folder)  # folders on the way to it are made at the end, since nothing is left of work that failed
    hidden = above / f".{folder.name}.{uuid4().hex[:8]}"
    with ending_on_sigterm(), full_disk_named(above):
        hidden.mkdir()
        try:
            yield hidden
            folder.parent.mkdir(parents=True, exist_ok=True)
            hidden.rename(folder)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
