"""The row formats of training data: one pure function each, from a row to a conversation.

Math rows become `<think>{rationale}</think>\\boxed{answer}` ("boxed"); commonsense rows keep their text ("plain").
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from expert_condenser.data.columns import REFUSED
from expert_condenser.data.conversation import Message
from expert_condenser.data.turns import read_turns
from expert_condenser.errors import DataError

Row = Mapping[str, Any]
Example = tuple[list[Message], list[bool]]
"""The turns of a row, and which of them are trained."""

STYLES = ("auto", "boxed", "plain")
SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation"), "tool"),
}

MATH_ANSWER = re.compile(r"[-+]?\$?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?(/\d+)?%?|[a-e]", re.IGNORECASE)
CHOICE = re.compile(r"true|false|yes|no|(answer|solution|option|ending)\s?\d+", re.IGNORECASE)
_CALCULATOR = re.compile(r"<<(?:[^\n>]|>(?!>))*+(>>)?")
"""A mark, or one that its line does not close; taken whole, so that nothing is looked at twice."""


@dataclass(frozen=True)
class RowFormat:
    """What recognises a format and how its rows are read; `styled` formats heed the answer style."""

    columns: tuple[str, ...]
    convert: Callable[[Row, str], Example]
    optional: tuple[str, ...] = ()
    styled: bool = False

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns that rows of this format may have."""
        return self.columns + self.optional


def read_messages(row: Row, style: str = "auto", column: str = "messages") -> Example:
    """A chat, which ends with a turn of the assistant."""
    turns, trained = read_turns(row.get(column), column)
    if turns[-1]["role"] != "assistant":
        raise DataError(f"the last turn of {column!r} must be from 'assistant', but it is from {turns[-1]['role']!r}")
    return turns, trained


def read_sharegpt(row: Row, style: str = "auto") -> Example:
    """A chat of `from` and `value`: `human` is the user, `gpt` the assistant."""
    value = row.get("conversations")
    turns = [_from_sharegpt(turn) for turn in value] if isinstance(value, list) else value
    return read_messages({**row, "conversations": turns}, column="conversations")


def _from_sharegpt(turn: Any) -> Any:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    others = {key: part for key, part in turn.items() if key not in ("from", "value")}
    if turn["from"] == "function_call":
        return {**others, "role": "assistant", "content": "", "tool_calls": _calls_of(turn.get("value"))}
    return {**others, "role": SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}


def _calls_of(value: Any) -> Any:
    """A call, or several, as the JSON of `{"name", "arguments"}`."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise DataError(f"a turn from 'function_call' must be the JSON of a call, but it is {value[:60]!r}") from error
    return calls if isinstance(calls, list) else [calls]


def read_prompt_completion(row: Row, style: str = "auto") -> Example:
    """`prompt` and `completion`, each a text or a list of turns; only the completion's turns are trained."""
    prompt = _text_or_turns(row, "prompt", "user")[0]
    completion, trained = _text_or_turns(row, "completion", "assistant")
    if completion[0]["role"] != "assistant" or completion[-1]["role"] != "assistant":
        roles = [turn["role"] for turn in completion]
        raise DataError(f"'completion' must begin and end with a turn from 'assistant', but its turns are from {roles}")
    return prompt + completion, [False] * len(prompt) + trained


def read_alpaca(row: Row, style: str = "auto") -> Example:
    """`instruction`, then a blank line and `input` if any; answered by `output`, boxed if `answer` is a math answer."""
    extra, answer = (text_of(row.get(column)).strip() for column in ("input", "answer"))
    question = _text(row, "instruction") + (f"\n\n{extra}" if extra else "")
    style = _alpaca_style(answer) if style == "auto" else style
    if style == "plain":
        return _example(question, _text(row, "output"))
    return _example(question, boxed(_present(row, "output"), _text(row, "answer")))


def read_gsm8k(row: Row, style: str = "auto") -> Example:
    """`question`; the rationale is what precedes `#### n` in `answer`, without calculator annotations."""
    question, answer = _text(row, "question"), _text(row, "answer")
    if style == "plain":
        return _example(question, answer)
    rationale, mark, number = answer.rpartition("####")
    number = number.strip().replace(",", "").removeprefix("$")
    if not mark or not number or "\n" in number:
        raise DataError(
            f"'answer' must end in a line '#### n', but it ends in {answer[-40:]!r}; "
            "correct it, or set answer_style='plain' to train on the text as it is"
        )
    return _example(question, boxed(without_calculator(rationale).strip(), number))


def without_calculator(text: str) -> str:
    """A rationale of GSM8K without its marks for a calculator, `<<2+3=5>>`."""
    return _CALCULATOR.sub(lambda mark: "" if mark[1] else mark[0], text)


def read_mawps(row: Row, style: str = "auto") -> Example:
    """`original_text`; the rationale is `equation`, the answer `ans` (which alone is the plain style)."""
    question, answer = _text(row, "original_text"), _text(row, "ans").removeprefix("[").removesuffix("]")
    return _example(question, answer if style == "plain" else boxed(_text(row, "equation"), answer))


def read_s1k(row: Row, style: str = "auto") -> Example:
    """`question`; the thoughts are the one entry of `thinking_trajectories`, and `attempt` is what follows them."""
    thoughts = row.get("thinking_trajectories")
    if not isinstance(thoughts, list) or len(thoughts) != 1 or not isinstance(thoughts[0], str):
        raise DataError(f"'thinking_trajectories' must be a list of one text, but it is {str(thoughts)[:60]!r}")
    return _example(_text(row, "question"), f"<think>{thoughts[0]}</think>{_text(row, 'attempt')}")


FORMATS: dict[str, RowFormat] = {
    "messages": RowFormat(("messages",), read_messages),
    "sharegpt": RowFormat(("conversations",), read_sharegpt),
    "prompt_completion": RowFormat(("prompt", "completion"), read_prompt_completion),
    "alpaca": RowFormat(("instruction", "output"), read_alpaca, optional=("input", "answer"), styled=True),
    "s1k": RowFormat(("question", "thinking_trajectories", "attempt"), read_s1k),
    "gsm8k": RowFormat(("question", "answer"), read_gsm8k, styled=True),
    "mawps": RowFormat(("original_text", "equation", "ans"), read_mawps, styled=True),
}
"""Detected in this order: the first format whose columns are all there."""


def choose_format(columns: Collection[str], data_format: str = "auto", style: str = "auto") -> RowFormat:
    """The named format, or the first of FORMATS that the columns allow."""
    if style not in STYLES:
        raise DataError(f"answer_style must be one of {', '.join(STYLES)}, but it is {style!r}")
    if data_format != "auto" and data_format not in FORMATS:
        raise DataError(f"data_format must be 'auto' or one of {', '.join(FORMATS)}, but it is {data_format!r}")
    names = FORMATS if data_format == "auto" else [data_format]
    name = next((name for name in names if set(FORMATS[name].columns) <= set(columns)), None)
    if name is None:
        known = "; ".join(f"{name} needs {', '.join(known.columns)}" for name, known in FORMATS.items())
        wanted = "any known format" if data_format == "auto" else f"data_format {data_format!r}"
        for name in columns:
            if name in REFUSED:
                raise DataError(f"the columns {', '.join(columns)} do not fit {wanted}: of {name!r}, {REFUSED[name]}")
        raise DataError(f"the columns {', '.join(columns)} do not fit {wanted}; rename them. Known formats: {known}")
    if style != "auto" and not FORMATS[name].styled:
        raise DataError(
            f"answer_style={style!r} has no effect on the format {name!r}: its answers are complete; drop it"
        )
    return FORMATS[name]


def boxed(rationale: str, answer: str) -> str:
    """The training format of math answers."""
    return f"<think>{rationale}</think>\\boxed{{{answer.strip()}}}"


def text_of(value: Any) -> str:
    """A value as text: a whole number without `.0`, a truth value in lower case, nothing for a missing one."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError) as error:
        raise DataError(f"a value must be a text, a number or flat JSON, but it cannot be written: {error}") from error


def _alpaca_style(answer: str) -> str:
    if not answer or CHOICE.fullmatch(answer):
        return "plain"
    if MATH_ANSWER.fullmatch(answer):
        return "boxed"
    raise DataError(
        f"'answer' must be a number or an option letter (boxed), or a choice such as 'true' or 'answer4' (plain), "
        f"but it is {answer[:60]!r}; set answer_style='boxed' or answer_style='plain'"
    )


def _example(question: str, answer: str) -> Example:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], [False, True]


def _present(row: Row, column: str) -> str:
    if row.get(column) is None:
        raise DataError(f"every row needs a value in {column!r}, but this one has none; add it or drop the row")
    return text_of(row[column])


def _text(row: Row, column: str) -> str:
    text = _present(row, column)
    if not text.strip():
        raise DataError(f"{column!r} must not be empty, but it is; fill it in or drop the row")
    return text


def _text_or_turns(row: Row, column: str, role: str) -> Example:
    """The turns of a column; a plain text is one turn of `role`."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return [{"role": role, "content": _text(row, column)}], [role == "assistant"]
    return read_turns(value, column)
