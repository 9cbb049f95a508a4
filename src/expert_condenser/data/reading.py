"""A row as a conversation: its format's columns, and what every format may have beside them.

`system` and `history` come before the first turn, `tools` and `chat_template_kwargs` go to the chat template, and
thoughts in a column of their own belong to the answer.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from expert_condenser.data.columns import SYSTEM, check_columns
from expert_condenser.data.conversation import Conversation, Message
from expert_condenser.data.formats import Row, RowFormat, text_of
from expert_condenser.data.turns import THOUGHTS, is_empty, read_turns, thoughts_of
from expert_condenser.errors import DataError


def read_row(row: Row, chosen: RowFormat, style: str, ignore: Collection[str] = (), origin: str = "") -> Conversation:
    """The conversation of a row with all that its columns say; raises `DataError` where one cannot be heeded."""
    row = {name: _without(value, ignore) for name, value in row.items() if name not in ignore}
    check_columns(row, chosen.all_columns)
    turns, trained = chosen.convert(row, style)
    row = {name: value for name, value in row.items() if name not in chosen.all_columns}
    before = _history(row.get("history"))
    system = [text_of(row[name]) for name in SYSTEM if not is_empty(row.get(name))]
    if system and turns[0]["role"] == "system":
        if [turns[0]["content"]] != system:
            raise DataError("a row has one system turn, but it has a column 'system' and such a turn; keep one of them")
        system = []
    start = 1 if turns[0]["role"] == "system" else 0
    before_trained = [turn["role"] == "assistant" for turn in before]
    turns = [{"role": "system", "content": text} for text in system] + turns[:start] + before + turns[start:]
    trained = [False] * len(system) + trained[:start] + before_trained + trained[start:]
    thoughts = thoughts_of(row)
    if thoughts:
        turns = _with_thoughts(turns, thoughts, [name for name in THOUGHTS if name in row])
    if not any(trained):
        raise DataError(
            "a row needs a turn of the assistant that is trained, but the weight of each is 0; drop the row"
        )
    _check_turns(turns, trained)
    tools, options = _tools(row.get("tools")), _options(row)
    _check_unicode([*turns, *tools, options])
    return Conversation(tuple(turns), tuple(trained), tools, options, origin)


def _without(value: Any, ignore: Collection[str]) -> Any:
    """A column without those keys of its turns."""
    if not ignore or not isinstance(value, list):
        return value
    return [
        {key: part for key, part in turn.items() if key not in ignore} if isinstance(turn, Mapping) else turn
        for turn in value
    ]


def _check_turns(turns: list[Message], trained: list[bool]) -> None:
    for at in (at for at, each in enumerate(trained) if each):
        before = turns[at - 1]["role"] if at else None
        if before not in ("user", "tool"):
            got = f"ends with a turn from {before!r}" if before else "has no turns"
            raise DataError(f"the prompt must end with a turn from 'user' or 'tool', but it {got}")
        turn = turns[at]
        if not turn["content"].strip() and not turn.get("tool_calls"):
            raise DataError("the completion must not be empty, but it is; drop the row")


def _check_unicode(parts: list[Mapping[str, Any]]) -> None:
    """JSON can write half of a surrogate pair, which is no text that a tokenizer takes, and endless numbers."""
    for part in parts:
        try:
            json.dumps(part, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            text = str(part)[max(0, error.start - 30) :][:60]
            raise DataError(f"a turn must be Unicode text, but it has {text!a} ({error.reason})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"a turn must be text and numbers, but one cannot be written: {error}") from error


def _with_thoughts(turns: list[Message], thoughts: str, names: list[str]) -> list[Message]:
    if "reasoning_content" in turns[-1] or turns[-1]["content"].lstrip().startswith("<think>"):
        raise DataError(f"the last turn has thoughts, and {', '.join(names)} has others; keep one of them")
    return [*turns[:-1], turns[-1] | {"reasoning_content": thoughts}]


def _history(value: Any) -> list[Message]:
    """Earlier turns: a list of turns, or of pairs of question and answer."""
    if is_empty(value):
        return []
    if isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        roles = ("user", "assistant")
        value = [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    return read_turns(value, "history")[0]


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The column `tools`: a list of JSON schemas, or the JSON of one."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"'tools' must be a list of JSON schemas, but it is {value[:60]!r}") from error
    if is_empty(value):
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) and name_of_tool(tool) for tool in value):
        raise DataError(f"'tools' must be a list of JSON schemas with a 'name' each, but it is {str(value)[:80]!r}")
    return tuple(value)


def name_of_tool(tool: Mapping[str, Any]) -> str:
    """The name of a function; empty where its schema has none."""
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""


def _options(row: Row) -> dict[str, Any]:
    value = row.get("chat_template_kwargs")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"'chat_template_kwargs' must be a mapping, but it is {value[:60]!r}") from error
    if is_empty(value):
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"'chat_template_kwargs' must be a mapping, but it is {str(value)[:60]!r}")
    return {key: part for key, part in value.items() if part is not None}
