"""A YAML file that a person wrote: plain values alone, and no more of them than can be looked at."""

from pathlib import Path
from typing import Any

import yaml

from expert_condenser.errors import DataError

LARGEST = 1_000_000
"""Characters and values of a file once its aliases are followed: a few lines of aliases can stand for terabytes."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises `DataError` with the path and the reason where it cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error}") from error
    # PyYAML lets through what its converters raise: IndexError on `!!int ""`, KeyError on `!!bool maybe`.
    except Exception as error:
        raise DataError(f"{path} must be YAML: {error!r}") from error
    if _size(content, {}) > LARGEST:
        raise DataError(
            f"{path} must be of at most {LARGEST:,} characters, and there are more once its aliases (*name) are "
            "followed; write out what is meant"
        )
    return content


def _size(value: Any, known: dict[int, int | float]) -> int | float:
    """Characters and values in a value, counted as often as it is used; without end where it holds itself."""
    if not isinstance(value, dict | list):
        return 1 + len(value) if isinstance(value, str) else 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # while it is counted
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
