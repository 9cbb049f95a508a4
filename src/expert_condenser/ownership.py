"""One owner of a folder: a lock that names the process which works there, and that a dead process does not keep."""

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from expert_condenser.errors import DataError, FolderError
from expert_condenser.files import read_json, write_bytes

LOCK = ".condenser-lock"
HIDDEN = "hidden"
FORMAT_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """The content of a lock: which process works there."""

    what: str
    """Its work: `train`, `study`, `demo`."""
    host: str
    namespace: str
    """Of its process ids, which mean nothing in another container."""
    pid: int
    started: str
    """When the process started: a later one may have its id."""
    since: str
    format_version: int = FORMAT_VERSION

    @classmethod
    def here(cls, what: str) -> "Owner":
        """This process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(what, socket.gethostname(), _namespace(), os.getpid(), start_of(os.getpid()) or "", now)

    @classmethod
    def read(cls, path: Path) -> "Owner":
        """Raises `DataError` on anything else than a lock."""
        content = read_json(path)
        known = {f.name: f.type for f in fields(cls)}
        if not isinstance(content, dict) or any(type(content.get(n)) is not kind for n, kind in known.items()):
            raise DataError(f"{path} names no process")
        return cls(**{name: content[name] for name in known})

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where it cannot be told from here."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return None
        started = start_of(self.pid)
        return None if started == HIDDEN else started == self.started


def start_of(pid: int) -> str | None:
    """When a process of this machine started, to the clock tick and the boot; None where there is none.

    `HIDDEN` where there is one of somebody else's, and the system is set up to show no more of it.
    """
    try:
        fields_behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if not Path("/proc/self/stat").exists():
            return _start_by_ps(pid)
        return HIDDEN if _exists(pid) else None
    except ProcessLookupError:  # it ended between the opening and the reading
        return None
    if fields_behind_name[0] in "ZX":  # dead, and only waiting to be noticed
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields_behind_name[19]}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _start_by_ps(pid: int) -> str | None:
    """As `start_of`, where there is no /proc."""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


class Lock:
    """`with Lock(folder, "train"):` one process works in the folder, which must exist, until the end of the block.

    Raises `FolderError` where another one does, with its host, process and start; a lock that a dead process of this
    machine left is taken over. What runs on another machine cannot be seen from here, so its lock is never taken.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what
        self._owner: Owner | None = None

    def __enter__(self) -> "Lock":
        with _alone(self.folder.parent):
            self._create()
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    def moving(self, change: Callable[[], Any]) -> None:
        """Rename the folder and make another in its place, while no other process of this machine can take it."""
        with _alone(self.folder.parent):
            self._remove()
            try:
                change()
            finally:
                if self.folder.is_dir():
                    self._create()

    def _create(self) -> None:
        path, owner = self.folder / LOCK, Owner.here(self.what)
        if path.exists():
            self._check_dead(path)
            path.unlink(missing_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            raise FolderError(f"another process took {self.folder} at this moment; {_HOW}") from None
        except OSError as error:
            raise FolderError(f"output_dir must be a folder that can be written: {error}; name another one") from error
        try:
            write_bytes(handle, (json.dumps(asdict(owner)) + "\n").encode())
            os.fsync(handle)
        except OSError as error:
            path.unlink()
            raise FolderError(f"output_dir must have room: {error}") from error
        finally:
            os.close(handle)
        self._owner = owner

    def _check_dead(self, path: Path) -> None:
        """Raise `FolderError` unless the lock's process is known to be gone."""
        try:
            owner = Owner.read(path)
        except DataError as error:
            raise FolderError(f"{self.folder} is locked, and {error}; {_HOW}") from error
        alive, by = owner.is_alive(), f"`{owner.what}`, process {owner.pid} on {owner.host}, since {owner.since}"
        if alive:
            raise FolderError(f"one process works in a folder, and in {self.folder} does {by}; wait until it has ended")
        if alive is None:
            raise FolderError(f"{self.folder} is locked by {by}, which cannot be seen from here; {_HOW}")
        logger.warning(f"{self.folder}: the lock of {by}, is taken over; that process is gone")

    def _remove(self) -> None:
        owner, self._owner = self._owner, None
        path = self.folder / LOCK
        with suppress(DataError, OSError):  # gone, or no longer ours: then it is not for us to remove
            if owner is not None and Owner.read(path) == owner:
                path.unlink()


_HOW = f"when you are sure that nothing works there, delete the file {LOCK} in it"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time is within, where the system can tell: looking and taking are one thing."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # no such system, or a folder that cannot be read: O_EXCL holds without it
        yield
        return
    try:
        with suppress(OSError):  # some file systems have no such locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def wait_for_end(folder: Path, seconds: float) -> None:
    """Wait for the process of this machine that works in a folder to end, if there is one, but no longer than this."""
    end = time.monotonic() + seconds
    with suppress(DataError):  # no lock, or none that can be read
        while Owner.read(folder / LOCK).is_alive() and time.monotonic() < end:
            time.sleep(0.1)


def end_with(owner: Owner, every: float = 0.5) -> None:
    """End this process by SIGTERM once another of this machine is gone; looks every so many seconds."""

    def watch() -> None:
        while owner.is_alive() is not False:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within, SIGTERM ends the process by `SystemExit(143)`, so that blocks are left and locks removed.

    A handler that somebody has set stays, and in a thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
