"""Signs as a typewriter has them: minus signs, hyphens, quotes, and the full-width signs of Chinese and Japanese."""

import re

_FULL_WIDTH = {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}
_TYPOGRAPHY = str.maketrans(
    {
        **_FULL_WIDTH,
        **{"\uff0c": ", ", "\u3001": ", ", "\u3002": ". ", "\u3000": " "},  # a list of numbers is none with separators
        **{"\u2019": "'", "\u201c": '"', "\u201d": '"', "\u300c": '"', "\u300d": '"', "\u2014": ";"},
        **dict.fromkeys("\u2010\u2011\u2013\u2212", "-"),
    }
)
_SIGN = re.compile(
    r"((?:\A|[=:(\[#*{]|(?<!\S)(?:\$|\\\()|\b(?:is|was|are|be|been|equals?|becomes|gives|get|answer)\b)[ \t]*)"
    r"\u2212[ \t]+(?=\.?\d)",
    re.IGNORECASE,
)
_IDEOGRAPH = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_GLUED = re.compile(rf"(?<={_IDEOGRAPH})(?=[\dA-Za-z$\\\-.])|(?<=[\dA-Za-z%$}}])(?={_IDEOGRAPH})")


def plain_signs(text: str) -> str:
    """A text with typewriter signs for minus, hyphens and quotes; an em dash ends a sentence.

    A true minus sign is glued to the number behind it where a number begins; a hyphen there may be a bullet, or a dash.
    Numbers and letters stand apart from Chinese, Japanese and Korean words: those have no blanks between words.
    """
    return _GLUED.sub(" ", _SIGN.sub(r"\1-", text).translate(_TYPOGRAPHY))
