"""Which part of a generated text is its answer: what comes before the end of thoughts is none.

`FORMATS` lists how families mark their thoughts; gpt-oss names the channel of every message, and only `final` is for
the reader. An opening counts at the beginning of a line or behind a sentence, so a text may speak of `<think>`. A
closing mark counts without an opening too, for many templates open the thoughts in the prompt. Thoughts that are never
closed hold no answer, whatever is boxed in them. Closed ones hold none either, but for those of `<think>`: this
package's own references end there, and they count where nothing after them answers.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from expert_condenser.evaluation.answers.run_on import up_to_mark


class Thoughts(NamedTuple):
    """How a family marks its thoughts."""

    opening: str
    closing: str
    answer: bool = False
    """Whether they may answer where nothing after them does."""


FORMATS = (
    Thoughts("<think>", "</think>", answer=True),  # DeepSeek, Qwen, GLM, Nemotron, MiniMax, Olmo; our own references
    Thoughts("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Thoughts("<|channel>thought", "<channel|>"),  # Gemma 4
    Thoughts("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Thoughts(
        "<|think|>", "<|end|><|begin|>assistant<|content|>"
    ),  # Solar-Open, whose thoughts are a message of their own
    Thoughts("<seed:think>", "</seed:think>"),  # Seed-OSS
    Thoughts("<mm:think>", "</mm:think>"),  # MiniMax-M3
    Thoughts("<think:opensource>", "</think:opensource>"),  # Hy3
    Thoughts("<longcat_think>", "</longcat_think>"),  # LongCat
    Thoughts("◁think▷", "◁/think▷"),  # Kimi
    Thoughts("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Thoughts("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    Thoughts("<thought>", "</thought>"),  # EXAONE Deep
    Thoughts("<thinking>", "</thinking>"),
    Thoughts("<reasoning>", "</reasoning>"),
    Thoughts("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
_OPENINGS = {form.opening: form for form in FORMATS}
_CLOSINGS = {form.closing: form for form in FORMATS}
_MARK = re.compile(
    rf"(?:^|(?<=[.!?)\]}}>]))[ \t]*(?P<opening>{'|'.join(map(re.escape, _OPENINGS))})"
    rf"|(?P<closing>{'|'.join(map(re.escape, _CLOSINGS))})",
    re.MULTILINE,
)
_OPEN_END = re.compile(
    rf"(?:{'|'.join(map(re.escape, _OPENINGS))}|<\|channel\|>[a-z]+<\|message\|>|<\|channel\|>[a-z]*)\s*\Z"
)
_HEADER = re.compile(r"<\|channel\|>\s*(\w*)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>|\Z")
_OTHERS_TURN = re.compile(r"<\|start\|>\s*(?:user|system|developer)\b")
_OTHER_MARK = re.compile(r"<\|[A-Za-z_]+\|>")
"""A special token that says nothing of turns and thoughts, as the marks around GLM's box."""
_STRIPPED = re.compile(r"\s*(?:analysis|commentary)")
_STRIPPED_FINAL = re.compile(r"\s*final(?=[^\sa-z])")


class _Segment(NamedTuple):
    text: str
    end: int
    form: Thoughts | None
    """The format of these thoughts; None for what is said."""


def opened_in(prompt: str) -> str:
    """The mark with which a rendered prompt opens the thoughts, or a channel, or the empty text."""
    found = _OPEN_END.search(prompt, max(0, len(prompt) - 100))
    return found[0].strip() if found else ""


def said(text: str, up_to: Callable[[str], slice] = up_to_mark) -> list[str]:
    """The parts of a generated text that may answer, the best one first: none where it never leaves its thoughts.

    What is said ends where an invented turn begins, as `up_to` finds it, and nothing after that is read. What follows
    the last thoughts is the best; then comes what was said before it, with its thoughts if those may answer.
    """
    final = _final_channel(text)
    if final is not None:
        parts = [final[up_to(final)]]
    else:
        segments = list(_segments(text, up_to))
        last = segments.pop().text if segments and segments[-1].form is None else ""
        if any(segment.form is not None and segment.form.answer for segment in segments):
            parts = [last, text[: segments[-1].end]]
        else:
            parts = [last, "\n".join(segment.text for segment in segments if segment.form is None)]
    plain = (_OTHER_MARK.sub("", part).strip() for part in parts)
    return [part for part in plain if part]


def _segments(text: str, up_to: Callable[[str], slice]) -> Iterator[_Segment]:
    """What is said, and closed thoughts, in their order up to the first invented turn or a closing that is missing."""
    start, inside = 0, None
    for mark in _MARK.finditer(text):
        opening, closing = _OPENINGS.get(mark["opening"]), _CLOSINGS.get(mark["closing"])
        if inside is not None and closing is not inside:
            continue
        here = text[start : mark.start()]
        if closing is not None:
            if up_to_mark(here).stop < len(here):  # another turn began: these are not the thoughts of this answer
                break
            yield _Segment(here, mark.start(), closing)
            inside = None
        else:
            kept = up_to(here)
            yield _Segment(here[kept], mark.start(), None)
            if kept.stop < len(here):
                return
            inside = opening
        start = mark.end()
    if inside is None:
        yield _Segment(text[start:][up_to(text[start:])], len(text), None)


def _final_channel(text: str) -> str | None:
    """The first message of gpt-oss's final channel, "" where it has none; None for a text without channels.

    A text without special tokens keeps the names alone: `analysis…assistantfinal24`.
    """
    if "<|channel|>" in text:
        other = _OTHERS_TURN.search(text)
        text = text[: other.start()] if other else text
        header = next((header for header in _HEADER.finditer(text) if header[1] == "final"), None)
        end = _MESSAGE_END.search(text, header.end()) if header else None
        return text[header.end() : end.start()] if header and end else ""
    if named := _STRIPPED.match(text):
        _, mark, final = text.partition("assistantfinal")
        glued = re.match(r"[\w\\$\"'(*]", text[named.end() : named.end() + 1])
        return final if mark else "" if glued else None
    found = _STRIPPED_FINAL.match(text)
    return text[found.end() :] if found else None
