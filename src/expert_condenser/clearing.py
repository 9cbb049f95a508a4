"""What a command may clear: a folder that says itself that it is of this command, and is no input and no place to be.

Every command that clears anything asks here first, before it loads a model. docs/files.md has the rule for people.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError, FolderError
from expert_condenser.files import read_json, write_json

MARKER = ".condenser-folder"
FORMAT_VERSION = 1
ROOM_FOR_ASIDE = 32
"""Bytes that the name of a folder gets longer by when it is renamed aside."""


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
            _check_kinds(known)
        except (DataError, KeyError, TypeError) as error:
            raise FolderError(f"{path} says whose folder this is, and cannot be read ({error!r}); restore it") from None
        if known["format_version"] != FORMAT_VERSION:
            raise FolderError(f"{path} has format_version {known['format_version']!r}; update expert-condenser")
        return cls(**known)

    def write(self, folder: Path) -> None:
        """Mark a folder, whole or not at all."""
        write_json(folder / MARKER, asdict(self))


def _check_kinds(content: Mapping[str, Any]) -> None:
    kinds = {"kind": str, "replaces": str | None, "began": bool, "format_version": int}
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise TypeError(f"{name} is {content[name]!r}")


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
    if mounted := mounts_in(real):
        raise FolderError(
            f"{mounted[0]} is a mount point: it cannot be renamed, and what it holds is elsewhere, so {folder} is not "
            f"cleared; {other}"
        )
    for name, place in (("the working directory", Path.cwd()), ("the home directory", Path.home())):
        if place.resolve().is_relative_to(real):
            raise FolderError(f"{folder} is or contains {name} and is not cleared; {other}")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise FolderError(f"what {folder} holds is renamed first, and {real.parent} takes no writing; {other}")
    if len(os.fsencode(real.name)) + ROOM_FOR_ASIDE > os.pathconf(real.parent, "PC_NAME_MAX"):
        raise FolderError(f"what {folder} holds is renamed first, and its name is too long for a longer one; {other}")


def check_apart(folder: Path, name: str, path: Path) -> None:
    """Raise `FolderError` where a folder to clear is, contains or lies in an input, or holds what one links to."""
    real, found = folder.resolve(), path.resolve()
    # An input may be named by a link that lies in the folder.
    named = (parent.resolve() for parent in Path(os.path.normpath(path.absolute())).parents)
    if real.is_relative_to(found) or any(place.is_relative_to(real) for place in (found, *named, *_linked(path))):
        raise FolderError(
            f"{folder} is not cleared: {name} is {path}, which it is, contains or lies in; name another output_dir"
        )


def _linked(folder: Path) -> Iterator[Path]:
    """Where the links within a folder lead, at every level and through other links, as readers follow them."""
    seen, waiting = set(), [folder]
    while waiting:
        here = waiting.pop()
        if here.resolve() in seen or not here.is_dir():
            continue
        seen.add(here.resolve())
        for path in here.iterdir():
            yield from _stations(path)
            if path.is_dir():
                waiting.append(path)


def _stations(link: Path) -> Iterator[Path]:
    """Where a link leads, and every link that it leads through; nothing where it is none or leads in a circle."""
    for _ in range(40):  # as many as Linux follows
        if not link.is_symlink():
            return
        link = link.parent / link.readlink()
        yield link.parent.resolve() / link.name


def _check_own(content: Path, kind: Kind) -> None:
    marker = Marker.read(content)
    if not (marker.kind == kind.name if marker else kind.is_older(content)):
        what = f"something of `{marker.kind}`" if marker else f"something else ({MARKER} is missing)"
        raise FolderError(f"`{kind.name}` clears only what it made, and {content} holds {what}; name another folder")
    for found in (*content.rglob(MARKER), *content.rglob("run.json")):
        parts = found.relative_to(content).parts
        own = len(parts) == 2 and re.fullmatch(kind.own_runs, parts[0])
        if len(parts) > 1 and not own:
            raise FolderError(f"{content} is not cleared: another run lies in it, {found.parent}; move that one first")


def mounts_in(folder: Path) -> list[Path]:
    """What is mounted on a folder or in it, folders of the same disk included, which `os.path.ismount` does not see."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux: what a path itself says
        return [path for path in (folder, *folder.rglob("*")) if path.is_mount()]
    # Field 5 is the mount point, with a space as \040.
    points = {Path(re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split()[4])) for line in lines}
    return sorted(point for point in points if point.is_relative_to(folder))
