"""What a text sets in bold: the one bold number of its last sentence, or line, is its answer where it states none.

"There are **24 pens** in 4 boxes" answers 24. A bold label ("**Step 2:** …") is no number, nor is one that is denied
("not **5**").
"""

import re

_UNDERSCORES = re.compile(r"(?<![\w\\])__(?=[^\s_])([^_\n]*[^\s_])__(?!\w)")
_UNDERSCORE = re.compile(r"(?<![\w\\)}])_(\(?[A-E]\)?|-?\$?\d[\d.,]*)_(?!\w)")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*(?!\s*:)")
_LABEL = re.compile(r".*:\s*|\W*\d+[.):]\s*|.*\b(?:step|case|day|part|method|option|example)\s+\d+\W*", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n't|\bnever|\binstead\s+of|\bthan)\s+(?:\w+\s+)?\Z", re.IGNORECASE)
SIGHT = 40
"""Characters before what is in bold that may deny it."""
_SENTENCE = re.compile(r"[!?]\**(?=\s)|\.\**(?=\s)")


def with_stars(text: str) -> str:
    """A text whose bold marks are all `**`: `__24__` is bold too, and a number or letter in `_24_` is in italics."""
    return _UNDERSCORE.sub(r"\1", _UNDERSCORES.sub(r"**\1**", text))


def last_units(text: str) -> list[str]:
    """The last sentence of a text, and its last line."""
    line = text.rstrip().rpartition("\n")[2]
    ends = [end.end() for end in _SENTENCE.finditer(line)]
    return [line[ends[-1] :], line] if ends else [line]


def bold_parts(text: str) -> list[tuple[str, str]]:
    """What stands in bold and is no label, each with the text behind it; none where one of them is denied."""
    found = [bold for bold in _BOLD.finditer(text) if not _LABEL.fullmatch(bold[1])]
    if any(_DENIED.search(text, max(0, bold.start() - SIGHT), bold.start()) for bold in found):
        return []
    return [(bold[1], text[bold.end() :]) for bold in found]
