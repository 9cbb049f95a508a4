"""What a command may clear: a folder that says itself that it is of this command, and is no input and no place to be.

Every command that clears anything asks here first, before it loads a model. docs/files.md has the rule for people.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from expert_condenser.errors import DataError, FolderError
from expert_condenser.files import read_json, write_json

MARKER = ".condenser-folder"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Marker:
    """The content of `.condenser-folder`: whose folder this is, and what it took the place of."""

    kind: str
    """The command: `train`, `study`, `demo`."""
    replaces: str | None = None
    """The folder beside this one that was here before and is kept until this work has taken its first step."""
    began: bool = False
    """Whether the first step was taken, so that what `replaces` names may go."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """None where a folder has none; raises `FolderError` on one that is damaged or of a later release."""
        path = folder / MARKER
        if not path.exists():
            return None
        try:
            content = read_json(path)
            known = {name: content[name] for name in ("kind", "replaces", "began", "format_version")}
        except (DataError, KeyError, TypeError) as error:
            raise FolderError(f"{path} says whose folder this is, and cannot be read ({error!r}); restore it") from None
        if known["format_version"] != FORMAT_VERSION:
            raise FolderError(f"{path} has format_version {known['format_version']!r}; update expert-condenser")
        return cls(**known)

    def write(self, folder: Path) -> None:
        """Mark a folder, whole or not at all."""
        write_json(folder / MARKER, asdict(self))


@dataclass(frozen=True)
class Kind:
    """What one command makes, and how what it made is recognised."""

    name: str
    is_older: Callable[[Path], bool] = lambda folder: False
    """Whether a folder without a marker was made by an earlier release."""
    own_runs: str = r"(?!)"
    """The names within, as a regular expression, of runs that are of this work and go with it."""


def check_clearable(folder: Path, kind: Kind, inputs: Mapping[str, Path], content: Path | None = None) -> None:
    """Raise `FolderError`, with what to do, unless `folder` may be cleared.

    `content` is where what it holds lies for now, by default in the folder itself.
    """
    _check_place(folder)
    for name, path in inputs.items():
        check_apart(folder, name, path)
    _check_own(content or folder, kind)


def _check_place(folder: Path) -> None:
    real, other = folder.resolve(), "name another output_dir, or delete by hand what it holds"
    if folder.is_symlink():
        raise FolderError(f"a symbolic link is not cleared; name {real}, which {folder} points to, if that is meant")
    if is_mount(real):
        raise FolderError(f"{folder} is a mount point, which cannot be renamed and is not cleared; {other}")
    for name, place in (("the working directory", Path.cwd()), ("the home directory", Path.home())):
        if place.resolve().is_relative_to(real):
            raise FolderError(f"{folder} is or contains {name} and is not cleared; {other}")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise FolderError(f"what {folder} holds is renamed first, and {real.parent} takes no writing; {other}")


def check_apart(folder: Path, name: str, path: Path) -> None:
    """Raise `FolderError` where a folder to clear is, contains or lies in an input, or holds what one links to."""
    real, found = folder.resolve(), path.resolve()
    links = [p.resolve() for p in path.iterdir() if p.is_symlink()] if path.is_dir() else []
    if found.is_relative_to(real) or real.is_relative_to(found) or any(p.is_relative_to(real) for p in links):
        raise FolderError(
            f"{folder} is not cleared: {name} is {path}, which it is, contains or lies in; name another output_dir"
        )


def _check_own(content: Path, kind: Kind) -> None:
    marker = Marker.read(content)
    if not (marker.kind == kind.name if marker else kind.is_older(content)):
        what = f"something of `{marker.kind}`" if marker else f"something else ({MARKER} is missing)"
        raise FolderError(f"`{kind.name}` clears only what it made, and {content} holds {what}; name another folder")
    for found in (*content.rglob(MARKER), *content.rglob("run.json")):
        parts = found.relative_to(content).parts
        if len(parts) > 1 and not re.fullmatch(kind.own_runs, parts[0]):
            raise FolderError(f"{content} is not cleared: another run lies in it, {found.parent}; move that one first")


def is_mount(path: Path) -> bool:
    """Whether something is mounted there, a folder of the same disk included, which `os.path.ismount` does not see."""
    if path.is_mount():
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    # Field 5 is the mount point, with a space as \040.
    return str(path) in {line.split()[4].encode().decode("unicode_escape") for line in mounts}
