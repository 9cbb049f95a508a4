"""What every kind of answer shares: which part of a generated text may answer, and where it states its answer."""

import re
from collections.abc import Iterator

RUN_ON = re.compile(
    r"""(?:^|(?<=[.!?)\]}]))[ \t]*(?:\#+[ \t]*|\*\*)?
    (?:(?:Q|Question|Problem|Instruction|Human|User)(?:[ \t]*\d+)?\**[ \t]*:
    |Please[ ](?:choose[ ]the[ ]correct|answer[ ]the[ ]following))""",
    re.MULTILINE | re.VERBOSE,
)
"""Where the text goes on with a new question, as a model does that does not stop."""

ANSWER_IS = r"""
    \bans(?:wers?)?\b (?:\s*\([^()\n]*\))? (?:\s+(?:to|for|of|in)\s[^.:=\n]{1,120}?)??
    (?:\s*(?:(?:is|was|are|equals|becomes|(?:would|should|will|must)\s+be|comes\s+(?:out\s+)?to)\b|[:=→])|[ \t]*\n)"""
CORRECTION = r"""
    \b(?:actually|wait|sorry|correction|no|rather|instead)\b[,:-]*\s+ (?:it|that|this)(?:'s|\s+is|\s+should\s+be)\b
    | \b(?:actually|wait|sorry|oops|wrong|incorrect|mistaken?|errors?|not\s+(?:right|correct))\b
      (?:(?!\bans(?:wers?)?\b)[^\n]){0,120}? \b(?:it|that|this)\s+should\s+(?:\w+\s+)?be\b(?!\s+at\s+(?:least|most)\b)
    | \bthe\s+(?:correct|corrected|right)\s+(?:value|result|number|total|amount|sum)
      \s*(?:(?:is|was|(?:would|should|must)\s+be)\b|[:=])"""
TYPOGRAPHY = str.maketrans(
    {"\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": ";"} | dict.fromkeys("\u2010\u2011\u2013\u2212", "-")
)
SIGN = re.compile(
    r"((?:\A|[=:(\[#*{]|(?<!\S)(?:\$|\\\()|\b(?:is|was|are|be|been|equals?|becomes|gives|get|answer)\b)[ \t]*)"
    r"\u2212[ \t]+(?=\.?\d)",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"\n|[;!?]|\.(?!\d)")
BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def passages(text: str) -> list[str]:
    """The parts of a text that may answer, the best one first.

    What follows the last `</think>` comes before the thoughts. Each part ends where a new question begins
    (`Q:`, `Question:`, `### Instruction:`, a LLM-Adapters instruction), unless nothing stands before it. Bold
    marks and back ticks are dropped, and every delimiter of a formula becomes `$`.
    """
    before, _, after = plain_signs(text).rpartition("</think>")
    parts = [_until_run_on(part).strip() for part in (after, before)]
    return [re.sub(r"\\[()\[\]]|\$\$", "$", re.sub(r"\*\*|`", "", part)) for part in parts if part]


def plain_signs(text: str) -> str:
    """A text with typewriter signs for minus, hyphens and quotes; an em dash ends a sentence.

    A true minus sign is glued to the number behind it where a number begins; a hyphen there may be a bullet, or a dash.
    """
    return SIGN.sub(r"\1-", text).translate(TYPOGRAPHY)


def _until_run_on(text: str) -> str:
    starts = (match.start() for match in RUN_ON.finditer(text))
    return text[: next((start for start in starts if text[:start].strip(" \t\n#*")), len(text))]


def boxes(text: str) -> list[str]:
    r"""The contents of `\boxed{…}` with its nested braces, the last one first; a box cut off at the end is none."""
    open_braces: list[int | None] = []
    closed: list[tuple[int, int]] = []
    for brace in BRACE.finditer(text):
        if brace[0].endswith("{") and brace[0] != r"\{":
            open_braces.append(brace.end() if len(brace[0]) > 1 else None)
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            closed += [(start, brace.start())] if start is not None else []
    return [text[start:end] for start, end in sorted(closed, reverse=True)]


def marked(text: str) -> Iterator[str]:
    """The line after the last `####`, GSM8K's mark; a numbered heading is none."""
    _, mark, after = text.rpartition("####")
    line = after.strip().partition("\n")[0]
    if mark and line and not re.match(r"\d+[.)]\s+[A-Za-z]", line):
        yield line


def statements(text: str, *more: str) -> list[tuple[int, str]]:
    """Where a text says "the answer is", "answer:", "wait, it is" or one of `more`, and the rest of that sentence.

    In their order. The rest may begin on the next line. "It should be" counts only after "wrong" or the like.
    """
    heads = re.compile("|".join((ANSWER_IS, CORRECTION, *more)), re.IGNORECASE | re.VERBOSE)
    found = []
    for head in heads.finditer(text):
        start = re.compile(r"[\s:$]*").match(text, head.end()).end()  # type: ignore[union-attr]
        end = SENTENCE_END.search(text, start)
        found.append((head.start(), text[start : end.start() if end else len(text)]))
    return found
