"""The folder that one command works in: locked, marked, and what it replaces kept until the work has begun.

NAME                          what is worked on
NAME/.condenser-lock          the process that works there, while it does (`ownership`)
NAME/.condenser-folder        which command's it is (`clearing`)
NAME.replaced-<time>          what was there before: put back if the new work ends before its first step
"""

import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from expert_condenser.clearing import MARKER, Kind, Marker, check_clearable
from expert_condenser.errors import FolderError
from expert_condenser.files import is_partial
from expert_condenser.ownership import LOCK, Lock

_ASIDE = r"\.replaced-\d{8}T\d{12}"
_NOT_CONTENT = (LOCK, MARKER, "lost+found")
logger = logging.getLogger(__name__)


class WorkFolder:
    """`with WorkFolder(path, kind) as place:` holds the lock; `begin` clears, and `settle` makes it final.

    On the way in, work that was killed before its first step is undone: what it replaced is put back.
    """

    def __init__(self, path: Path, kind: Kind, inputs: Mapping[str, Path] | None = None) -> None:
        self.path, self.kind, self.inputs = path, kind, dict(inputs or {})
        self._lock = Lock(path.resolve(), kind.name)
        self._made: list[Path] = []
        self._replaced: Path | None = None

    @property
    def content(self) -> Path:
        """Where what the folder holds lies: elsewhere than in it while killed work waits to be undone."""
        return self._to_put_back() or self.path

    def holds_something(self) -> bool:
        """Whether there is anything but a lock."""
        return _holds_something(self.content)

    def check_clearable(self) -> None:
        """Raise `FolderError` unless work can begin here, over what the folder holds."""
        if self.holds_something():
            check_clearable(self.path, self.kind, self.inputs, self.content)

    def __enter__(self) -> "WorkFolder":
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"output_dir must be a folder that can be written: {error}; name another one") from error
        try:
            self._lock.__enter__()
        except BaseException:
            self._remove_made()
            raise
        try:
            self._recover()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and self._replaced is not None:
                self._put_back(self._replaced)
        finally:
            self._lock.__exit__()
            self._remove_made()

    def undo_killed(self) -> None:
        """Put back at once what killed work replaced, so that what is said of the folder next is true of it.

        Raises `FolderError` where a process works there.
        """
        if self._to_put_back() is not None:
            with self:
                pass

    def begin(self) -> None:
        """Make the folder this work's own. What it held is renamed aside; see `settle`."""
        if not _holds_something(self.path):
            Marker(self.kind.name).write(self.path)
            return
        aside = _free_name(self.path.resolve())

        def swap() -> None:
            self.path.resolve().rename(aside)
            self._replaced = aside
            self.path.mkdir()

        self._lock.moving(swap)
        (aside / LOCK).unlink(missing_ok=True)
        Marker(self.kind.name, replaces=aside.name).write(self.path)

    def mark(self) -> None:
        """Say whose folder this is, where it says nothing yet; raises `FolderError` where it is another command's."""
        marker = Marker.read(self.path)
        if marker is None:
            Marker(self.kind.name).write(self.path)
        elif marker.kind != self.kind.name:
            raise FolderError(
                f"{self.path} is a folder of `{marker.kind}`, and not of `{self.kind.name}`; name another"
            )

    def settle(self) -> None:
        """The first step is taken: delete what this work replaced, if anything."""
        replaced = self._replaced
        if replaced is not None:
            Marker(self.kind.name, replaced.name, began=True).write(self.path)
            self._replaced = None
            self._finish_deleting(replaced)

    def _finish_deleting(self, replaced: Path) -> None:
        try:
            _delete(replaced)
        except OSError as error:  # the new work is what counts, and goes on
            logger.warning(f"{replaced} was replaced and cannot be deleted ({error}); delete it by hand")
        Marker(self.kind.name).write(self.path)

    def _to_put_back(self) -> Path | None:
        """What killed work replaced, where that work took no step."""
        place = self.path.resolve()
        marker = Marker.read(place)
        if marker is not None:
            return None if marker.began else _named(marker, place)
        if _holds_something(place) or not place.parent.is_dir():
            return None
        # Killed between the renaming and the marking.
        return max((p for p in place.parent.iterdir() if _is_aside(p, place) and p.is_dir()), default=None)

    def _recover(self) -> None:
        aside = self._to_put_back()
        if aside is not None:
            logger.warning(f"{self.path}: what took the place of an earlier one ended before its first step")
            self._put_back(aside)
            return
        marker = Marker.read(self.path)
        if marker is not None and marker.replaces:
            old = _named(marker, self.path.resolve())
            if old is not None and marker.began:
                self._finish_deleting(old)
            else:
                replace(marker, replaces=None, began=False).write(self.path)

    def _put_back(self, aside: Path) -> None:
        """Undo `begin`."""
        place = self.path.resolve()

        def swap() -> None:
            try:
                if place.exists():
                    _delete(place)
            except OSError as error:
                raise FolderError(
                    f"{place} must make room for {aside.name}, which it replaced, and cannot be deleted ({error}); "
                    "delete it by hand"
                ) from error
            aside.rename(place)

        self._lock.moving(swap)
        self._replaced = None
        self._made = []
        logger.warning(f"{self.path} holds again what it held before")

    def _remove_made(self) -> None:
        """Remove the folders that were made for the lock and stayed empty."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def _holds_something(folder: Path) -> bool:
    """Whether there is more than what says whose it is, and what a crash left half-written."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in _NOT_CONTENT and not is_partial(name) for name in names)


def _free_name(place: Path) -> Path:
    """A name beside a folder that nothing has, for what it holds: the later, the larger."""
    while True:
        aside = place.with_name(f"{place.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        if not aside.exists():
            return aside


def _named(marker: Marker, place: Path) -> Path | None:
    """The folder that a marker of `place` says it replaces, if it is there and has the name of such a one.

    It has the name that `place` had then: people rename folders.
    """
    if not marker.replaces or not re.fullmatch(rf"[^/]+{_ASIDE}", marker.replaces):
        return None
    aside = place.with_name(marker.replaces)
    return aside if aside.is_dir() else None


def _is_aside(path: Path, place: Path) -> bool:
    return re.fullmatch(re.escape(place.name) + _ASIDE, path.name) is not None


def _delete(folder: Path) -> None:
    """Delete a folder, its marker last: killed meanwhile, it still says what it is and what it replaces."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()
