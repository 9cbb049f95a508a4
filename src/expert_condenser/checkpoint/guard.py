"""Checkpoints that say themselves whether they are whole: a manifest of their files, written last.

One without a manifest was never closed: its process was killed. One whose files are not as its manifest says was
damaged or edited afterwards, which is for a person to judge: nothing is trained again, and nothing deleted, over it.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from expert_condenser.errors import CheckpointError, DataError, ExpertCondenserError
from expert_condenser.files import MANIFEST, differences

UNFINISHED = "unfinished-"
"""In front of the name of what was set aside. Behind it, `Trainer` would still take it for a checkpoint."""


def check_readable(folder: Path) -> None:
    """Raise `CheckpointError` if a safetensors file of a local directory is truncated or damaged."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        if not file.is_file():
            raise CheckpointError(f"{file} must be a file with weights, and is none; take another checkpoint")
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is damaged or truncated ({error}); restore it or take another checkpoint"
            ) from error


@contextmanager
def states_named(checkpoint: str | Path) -> Iterator[None]:
    """Raise `CheckpointError` in place of what torch raises on the states of a training that it cannot read.

    Optimizer, schedule and random numbers are files of torch, read with `weights_only`: tensors and plain values, and
    nothing that runs.
    """
    try:
        yield
    except ExpertCondenserError:
        raise
    # torch has an error for each way in which a file may be another one, and optimizers check nothing by themselves.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{checkpoint} holds the states of optimizer, schedule and random numbers as torch writes them, and one is "
            f"damaged, or no plain tensors: {reason}. Restore it, or delete {checkpoint} to go on from what was there "
            "before it."
        ) from error


def is_closed(folder: Path) -> bool:
    """Whether all of a checkpoint was written once."""
    return (folder / MANIFEST).exists()


def check_whole(folder: Path, remedy: str = "Restore it, or delete {} to go on from what was there before it.") -> None:
    """Raise `CheckpointError`, with the file's name and what to do, where a closed checkpoint is not what it was."""
    try:
        found = differences(folder)
    except DataError as error:
        found = [str(error)]
    if found:
        what = f"a checkpoint is used as it was written, and {'; '.join(found)}"
        raise CheckpointError(f"{what}. {remedy.format(folder)}")
    check_readable(folder)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was closed, its files are what they were, and its weights can be read."""
    try:
        check_whole(folder)
    except CheckpointError:
        return False
    return True


def checkpoints_in(folder: Path) -> list[Path]:
    """Every `checkpoint-N` of a directory by N, as they are written: any other name is somebody else's."""
    numbers = {path: re.fullmatch(r"checkpoint-(0|[1-9]\d*)", path.name) for path in folder.glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in numbers.items() if match and path.is_dir()}
    return sorted(steps, key=steps.__getitem__)


def keep_newest(folder: Path, limit: int | None) -> None:
    """Delete all checkpoints of a directory but the `limit` newest ones; None or 0 keeps all."""
    for path in checkpoints_in(folder)[: -limit if limit and limit > 0 else 0]:
        shutil.rmtree(path)


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest closed `checkpoint-N` of a directory, and the newer ones that a crash left unfinished.

    Raises `CheckpointError` where that one is damaged.
    """
    unfinished: list[Path] = []
    for path in reversed(checkpoints_in(folder)):
        if is_closed(path):
            check_whole(path)
            return path, unfinished
        unfinished.append(path)
    return None, unfinished


def unfinished_in(folder: Path) -> list[Path]:
    """What `set_aside` has renamed in a directory, and nothing of somebody else's that is called like it."""
    pattern = rf"{UNFINISHED}(checkpoint-\d+|final)(-\d+)?"
    return [path for path in folder.glob(f"{UNFINISHED}*") if path.is_dir() and re.fullmatch(pattern, path.name)]


def set_aside(path: Path) -> Path:
    """Rename what a crash left unfinished, so that nothing takes it for whole and nothing is lost; the new path."""
    free = (f"{UNFINISHED}{path.name}{'' if n == 1 else f'-{n}'}" for n in range(1, 10**6))
    aside = path.with_name(next(name for name in free if not path.with_name(name).exists()))
    return path.rename(aside)
