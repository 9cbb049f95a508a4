"""Checkpoints that say themselves whether they are whole: a manifest with the sizes of their files, written last."""

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from expert_condenser.errors import CheckpointError
from expert_condenser.files import matches_manifest


def check_readable(folder: Path) -> None:
    """Raise `CheckpointError` if a safetensors file of a local directory is truncated or damaged."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is damaged or truncated ({error}); restore it or take another checkpoint"
            ) from error


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was closed, its files still have the sizes that they had, and its weights can be read."""
    try:
        check_readable(folder)
    except CheckpointError:
        return False
    return matches_manifest(folder)


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole `checkpoint-N` of a directory, and the newer ones that are not whole."""
    broken: list[Path] = []
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        if is_whole(path):
            return path, broken
        broken.append(path)
    return None, broken


def clear(folder: Path) -> None:
    """Delete a directory's content."""
    if folder.exists():
        shutil.rmtree(folder)
