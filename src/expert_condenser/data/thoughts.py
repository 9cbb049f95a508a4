"""Thoughts of an assistant turn, and what a template's generation prompt has begun of them.

Some templates open the thoughts themselves: their generation prompt ends in `<think>` and a line break, so that the
model goes on with the thoughts. The answer that is trained has to go on at the same place.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from expert_condenser.data.conversation import Message
from expert_condenser.errors import DataError

_MARKS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<think:opensource>", "</think:opensource>"),
)


KEYS = ("reasoning_content", "reasoning", "thinking")
"""Where templates look for thoughts."""


class Marks(NamedTuple):
    """What stands around thoughts."""

    opening: str
    closing: str


class Written(NamedTuple):
    """An assistant turn that writes its thoughts into its content: the marks, the thoughts, and what follows them."""

    marks: Marks
    thoughts: str
    answer: str


def written_thoughts(content: str) -> Written | None:
    """The thoughts at the beginning of a text, `<think>so</think>yes`; None where it begins otherwise."""
    text = content.lstrip()
    for marks in (Marks(*pair) for pair in _MARKS):
        if text.startswith(marks.opening) and marks.closing in text:
            thoughts, _, answer = text.removeprefix(marks.opening).partition(marks.closing)
            return Written(marks, thoughts, answer)
    return None


def opened(prompt: str) -> Marks | None:
    """The marks whose opening ends a generation prompt."""
    return next((Marks(*pair) for pair in _MARKS if prompt.rstrip().endswith(pair[0])), None)


def closed(prompt: str) -> Marks | None:
    """The marks of an empty block that ends a generation prompt: the model is to answer without thoughts."""
    return next((Marks(*pair) for pair in _MARKS if prompt.rstrip().endswith(pair[1])), None)


def without_empty_block(prompt: str) -> str | None:
    """A generation prompt up to the empty thoughts that end it; None where it ends otherwise."""
    for opening, closing in _MARKS:
        if found := re.search(rf"{re.escape(opening)}\s*{re.escape(closing)}\s*$", prompt):
            return prompt[: found.start()]
    return None


def shows_others(written: Written, answer: str) -> bool:
    """Whether thoughts of the template's own stand before those that a content has written out."""
    return written.marks.closing in answer.partition(written.marks.opening + written.thoughts)[0]


def has_thoughts(turn: Message) -> bool:
    """Whether an assistant turn has any, wherever it has them."""
    return bool(turn.get("reasoning_content") or written_thoughts(turn["content"]))


def forms_of(turn: Message) -> Iterator[Message]:
    """The same turn in the forms that templates read, the likelier one first.

    Thoughts have a key of their own, whose name differs, where the template reads one; else they stand in the content.
    """
    parted, written = turn, written_thoughts(turn["content"])
    if written is not None and not turn.get("reasoning_content"):
        parted = turn | {"content": written.answer.lstrip(), "reasoning_content": written.thoughts.strip()}
    if thoughts := parted.get("reasoning_content"):
        rest = {key: part for key, part in parted.items() if key != "reasoning_content"}
        yield from (rest | {key: thoughts} for key in KEYS)
    if parted is not turn or not thoughts:
        yield turn


def going_on(turn: Message, marks: Marks, prefill: str, bare: str, off: str) -> str:
    """What follows a generation prompt that opens the thoughts: the rest of them, their end, the answer, its end.

    `prefill` is the opening mark with the white space that the prompt has behind it; `bare` what the template shows for
    the turn without its thoughts, and `off` the generation prompt without thinking: where the turn has no thoughts, one
    of the two says how an empty block looks. Raises `DataError` where neither does.
    """
    empty = re.compile(rf"{re.escape(marks.opening)}(\s*){re.escape(marks.closing)}(\s*)")
    block = empty.match(bare)
    rest = bare[block.end() :] if block else bare.removeprefix(prefill)  # some templates open them in any turn
    space = prefill[len(marks.opening) :]
    written = written_thoughts(turn["content"])
    if written is not None:
        between = written.answer[: len(written.answer) - len(written.answer.lstrip())]
        return f"{written.thoughts.removeprefix(space)}{marks.closing}{between}{rest}"
    if turn.get("reasoning_content"):
        return f"{turn['reasoning_content'].strip()}\n{marks.closing}\n\n{rest}"
    shown = block or next((found for found in empty.finditer(off) if found.end() == len(off)), None)
    if shown is None:
        raise DataError(
            f"the chat template's generation prompt opens thoughts ({prefill!r}), this row has none, and the template "
            "shows no empty ones; give it 'reasoning_content', set chat_template_kwargs to what turns thinking off "
            "(enable_thinking: false, or thinking: false), or chat_template_path to a template that opens none"
        )
    inner, after = shown.groups()
    return f"{inner.removeprefix(space)}{marks.closing}{after}{rest}"
