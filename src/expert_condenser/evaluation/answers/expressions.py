r"""Whether what a text states is an expression, and so not one number: `\sqrt{576}`, `3x`, `x^2+5`, `0.\overline{3}`.

Of an equation the right side counts. Words make it a sentence, which is no expression. Units, degrees and what stands
in `\text{…}` say nothing: `90^\circ`, `3 m` and `24 \text{ pens}` are numbers. `24!` is a factorial in a box, where no
sentence ends.
"""

import re

_TEXT = re.compile(
    r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{[^{}]*\}(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d(?!\d)))?"
)
_NAMES = re.compile(
    r"(?<![A-Za-z])(?:sqrt|overline|bar|dot|[dt]?binom|pi|theta|infty|pm|mp|log|ln|lg|exp|sin|cos|tan|cot|sec|csc"
    r"|arcsin|arccos|arctan|[bp]?mod|begin|sum|prod|int|lfloor|lceil)(?![A-Za-z])"
)
_LAYOUT = re.compile(r"(?<![A-Za-z])(?:left|right|[Bb]igg?[lr]?|displaystyle|approx|q?quad)(?![A-Za-z])")
_WORD = re.compile(r"[A-Za-z]{3}")
_VARIABLE = r"(?:[abijnqruvxyzXYZ]|[abxyz]{2,3})"
"""Letters that are no unit: 3 m is three metres, 5 L five litres, 2 t two tons."""
_SIGNS = re.compile(
    rf"""[π√^] | \d[²³] | {_VARIABLE}[²³] | \d! | \d\([\d.]+\) | \d\s*x\s*\d
    | \d\s*{_VARIABLE}(?=\s*(?:\Z|[-+*/=(){{}}.]))
    | (?<![A-Za-z]){_VARIABLE}\s*[-+*/]\s*[\d(]
    | [\d)]\s*[-+*/]\s*{_VARIABLE}(?![A-Za-z])""",
    re.VERBOSE,
)


def without_text(content: str) -> str:
    r"""LaTeX without the words that it holds as `\text{…}`, and without the powers of units there."""
    return _TEXT.sub(" ", content)


def is_expression(plain: str) -> bool:
    """Whether a text in plain characters, as `number.rewritten` makes them, is an expression with a number in it."""
    _, sign, right = plain.rpartition("=")
    if sign and re.search(r"\d", right):
        plain = right
    if not re.search(r"\d", plain):
        return False
    rest = _LAYOUT.sub(" ", _NAMES.sub(" ", plain))
    return not _WORD.search(rest) and bool(_NAMES.search(plain) or _SIGNS.search(rest))
