"""The splits that a folder's README.md declares, as cards of data sets on the hub do: `configs`, `data_files`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from expert_condenser.data.splits import known_split
from expert_condenser.errors import DataError
from expert_condenser.files import is_path_within

CARD = "README.md"


def declared_splits(directory: Path, names: Sequence[str]) -> dict[str, list[str]] | None:
    """The names of each split that the card of a directory declares; None where it has no card, or declares none.

    Raises `DataError` where it declares several configurations, or one that cannot be read.
    """
    configs = _configs(directory / CARD)
    if not configs:
        return None
    if len(configs) > 1:
        known = ", ".join(str(config.get("config_name")) for config in configs)
        raise DataError(
            f"{directory / CARD} declares several configurations ({known}), and a folder is read as one; name the file "
            "or the folder of one of them"
        )
    splits: dict[str, list[str]] = {}
    for split, pattern in _patterns(directory / CARD, configs[0]["data_files"]):
        try:
            found = {path.relative_to(directory).as_posix() for path in directory.glob(pattern)}
        except ValueError as error:  # `**` is a whole part of a path
            raise DataError(f"data_files of {directory / CARD} are patterns, but {pattern[:60]!r}: {error}") from error
        splits.setdefault(known_split(split), []).extend(name for name in names if name in found)
    return splits


def _configs(card: Path) -> list[Mapping[str, Any]]:
    """The configurations with data files of their own in the YAML between the first two lines of `---`."""
    if not card.is_file():
        return []
    before, _, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    header, mark, _ = rest.partition("\n---")
    if before.strip() or not mark:
        return []
    try:
        content = yaml.safe_load(header)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"the header of {card} is YAML, as on the hub, but it cannot be read: {error}") from error
    configs = content.get("configs") if isinstance(content, dict) else None
    return [each for each in configs or [] if isinstance(each, dict) and each.get("data_files")]


def _patterns(card: Path, declared: Any) -> list[tuple[str, str]]:
    """Split and pattern of all files: a pattern or a list of them is of `train`, else each entry says its split."""
    entries = declared if isinstance(declared, list) else [declared]
    found = []
    for entry in entries:
        split, paths = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        for path in paths if isinstance(paths, list) else [paths]:
            if not isinstance(path, str) or not isinstance(split, str):
                raise DataError(f"data_files of {card} names files by split, 'split' and 'path', but it is {entry!r}")
            if not is_path_within(path):
                raise DataError(f"data_files of {card} names files in its folder, but it is {path[:60]!r}")
            found.append((split, path))
    return found
