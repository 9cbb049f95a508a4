"""One turn of a conversation: an allow-list of its keys, so that none is dropped unseen.

What a key means is used: `tool_calls`, thoughts under each of their names, a weight of 0 or 1. A key that is not known
here is an error of the row, unless the recipe lists it under `ignore`.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from expert_condenser.data.conversation import Message
from expert_condenser.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details")
"""Names of an assistant turn's thoughts; vLLM writes `reasoning`, before 0.16 `reasoning_content`."""
WEIGHTS = ("weight", "loss", "train")
"""Names of what says whether a turn is trained: 0 or false, 1 or true."""
_PASSED = ("tool_calls", "tool_call_id", "name")
_KNOWN = frozenset(("role", "content", *THOUGHTS, *WEIGHTS, *_PASSED))


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, an empty text, an empty list; 0 and False do say something."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def read_turns(value: Any, column: str) -> tuple[list[Message], list[bool]]:
    """The turns of a column, and which of them are trained; raises `DataError` where one is no turn."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # as tables have it
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise DataError(f"{column!r} must be a list of turns, but it is {str(value)[:60]!r}")
    read = [read_turn(turn, column) for turn in value]
    return [turn for turn, _ in read], [trained for _, trained in read]


def read_turn(value: Any, column: str) -> tuple[Message, bool]:
    """A turn as templates take it, and whether it is trained: assistant turns are, unless their weight is 0."""
    if not isinstance(value, Mapping) or value.get("role") not in ROLES:
        raise DataError(f"a turn of {column!r} must have a 'role' of {', '.join(ROLES)}, but it is {str(value)[:80]!r}")
    given = {key: part for key, part in value.items() if not is_empty(part)}
    strange = sorted(given.keys() - _KNOWN)
    if strange:
        raise DataError(
            f"a turn of {column!r} has {', '.join(strange)}, which would be lost; write it into 'content', or list it "
            f"under ignore ({str(value[strange[0]])[:60]!r})"
        )
    turn: Message = {"role": value["role"], "content": _content(given.get("content", ""), value, column)}
    turn |= {key: given[key] for key in _PASSED if key in given}
    if "tool_calls" in turn:
        turn["tool_calls"] = _tool_calls(turn["tool_calls"], column)
    is_assistant = turn["role"] == "assistant"
    thoughts = thoughts_of(given)
    if not is_assistant and (thoughts or "tool_calls" in turn):
        raise DataError(f"only a turn of the assistant has thoughts or tool calls, but {column!r} has {value!s:.80}")
    if "content" not in given and "tool_calls" not in turn and (value.get("content") is None or turn["role"] == "user"):
        raise DataError(f"a turn of {column!r} must have a text as 'content', or tool calls, but it is {value!s:.80}")
    return turn | ({"reasoning_content": thoughts} if thoughts else {}), _weight(given, column, is_assistant)


def thoughts_of(given: Mapping[str, Any]) -> str:
    """The thoughts under whichever of their names; raises `DataError` where two differ, or one is no text."""
    found = {key: _thought_text(key, given[key]) for key in THOUGHTS if not is_empty(given.get(key))}
    texts = list(dict.fromkeys(text for text in found.values() if text.strip()))
    if len(texts) > 1:
        raise DataError(f"{' and '.join(found)} are names of the same thoughts, but they differ; keep one of them")
    return texts[0] if texts else ""


def _thought_text(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    found = [part.get("text") or part.get("summary") for part in parts if isinstance(part, Mapping)]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(parts):
        raise DataError(f"{key!r} must be a text, or a list of parts with a 'text' each, but it is {str(value)[:60]!r}")
    return "".join(texts)


def _content(value: Any, turn: Any, column: str) -> str:
    """A text; a list of text parts is joined."""
    parts = value if isinstance(value, list) else [{"type": "text", "text": value}]
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind != "text" or not isinstance(text, str):
            raise DataError(
                f"a turn of {column!r} must have a text as 'content', but it is {str(turn)[:80]!r}; the model is "
                "trained on text alone"
            )
        texts.append(text)
    return "".join(texts)


def _tool_calls(calls: Any, column: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise DataError(f"'tool_calls' of {column!r} must be a list of calls, but it is {str(calls)[:80]!r}")
    return [_tool_call(call, column) for call in calls]


def _tool_call(call: Any, column: str) -> dict[str, Any]:
    """A call of a function; arguments that are written as JSON become values, as chat templates take them."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call of {column!r} must have a function with a 'name', but it is {str(call)[:80]!r}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise DataError(f"the arguments of a tool call must be JSON, but they are {arguments[:60]!r}") from error
    kept = {key: call[key] for key in ("id", "type") if not is_empty(call.get(key))}
    return {"type": "function", **kept, "function": {"name": function["name"], "arguments": arguments}}


def with_json_arguments(turns: Sequence[Message]) -> list[Message] | None:
    """The turns with the arguments of their tool calls as JSON; None where none has arguments of another form."""
    calls = [call for turn in turns for call in turn.get("tool_calls", ())]
    if not any(isinstance(call["function"]["arguments"], Mapping) for call in calls):
        return None
    return [
        turn | {"tool_calls": [_with_json(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn
        for turn in turns
    ]


def _with_json(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _weight(given: Mapping[str, Any], column: str, is_assistant: bool) -> bool:
    said = {key: given[key] for key in WEIGHTS if key in given}
    for key, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(
                f"{key!r} of a turn of {column!r} says whether it is trained, by 0 or 1, but it is {value!r}; a turn "
                "counts whole or not at all"
            )
    answers = {bool(value) for value in said.values()}
    if len(answers) > 1:
        raise DataError(f"{' and '.join(said)} of a turn of {column!r} contradict each other; keep one of them")
    if True in answers and not is_assistant:
        raise DataError(
            f"the loss is on turns of the assistant, but {next(iter(said))!r} is on one of {column!r} from another "
            "role; set it to 0, or leave it out"
        )
    return is_assistant and answers != {False}
