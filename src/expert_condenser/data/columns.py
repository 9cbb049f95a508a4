"""The columns of a row: an allow-list, so that none that has a meaning is dropped unseen.

A format reads its own columns. Beside them `COMMON` are read with every format. Those that mean something which no
training here can use are errors of the row where they are not empty. All others carry nothing to train: they are
reported once as unused.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from expert_condenser.data.turns import THOUGHTS, WEIGHTS, is_empty
from expert_condenser.errors import DataError

SYSTEM = ("system", "system_prompt")
COMMON = (*SYSTEM, "history", "tools", "chat_template_kwargs", "label", *THOUGHTS, *WEIGHTS)
"""Read with every format: the conversation's beginning, its functions, what its template is told, what it is worth."""

_NOT_TEXT = "the model is trained on text alone"
_PAIRS = "it is for preference training; keep the answers that are good as the completion"
REFUSED: Mapping[str, str] = {
    "context": "write it into the question",
    "documents": "write them into the question",
    "functions": "write them as 'tools'",
    "function_call": "write it as 'tool_calls' of a turn",
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _NOT_TEXT),
    **dict.fromkeys(("chosen", "rejected"), _PAIRS),
}
"""Columns whose content changes what a row means, and what to do with them."""


def unused(columns: Iterable[str], used: Collection[str]) -> list[str]:
    """The columns of which no row's training depends; names that are no Unicode text are written so that they are."""
    found = [name for name in columns if name not in used and name not in COMMON]
    return [name.encode("utf-8", "backslashreplace").decode() for name in found]


def check_columns(row: Mapping[str, Any], used: Collection[str]) -> None:
    """Raise `DataError` where a column says what this training cannot heed; `used` are those of the row's format."""
    for name, remedy in REFUSED.items():
        if name in row and name not in used and not is_empty(row[name]):
            raise DataError(f"{name!r} ({str(row[name])[:40]!r}) would be lost: {remedy}, or list it under ignore")
    for name in ("label", *WEIGHTS):
        value = row.get(name)
        if name in used or value is None:
            continue
        if name == "label" and str(value).lower() in ("true", "false"):  # a table has truth values as text
            value = str(value).lower() == "true"
        if name == "label" and (not isinstance(value, bool | int | float) or value not in (0, 1)):
            continue  # a class: of another task
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(f"{name!r} of a row says whether it is trained, by 0 or 1, but it is {value!r}; drop it")
        if not value:
            raise DataError(f"{name!r} is {value!r}: the row is not one to learn from; drop it (on_bad_row: skip does)")
