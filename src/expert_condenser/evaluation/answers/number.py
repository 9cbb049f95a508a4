r"""Answers that are one number, as in GSM8K.

**Where.** The first of these that holds a number: the last `\boxed{…}`; the line after the last `####`; the last
statement ("the answer is 5", "Answer: 5", "wait, it is 5"), where of an equation the right side counts; the one bold
number of the last sentence or line, see `emphasis`; the last number of the text. After `</think>`, the thoughts count
only if what follows them has no number.

**What.** Thousands separators, currency, percent signs and units are dropped: "50%" is 50. `3/4`, `1 1/2`,
`\frac{3}{4}`, `.5`, `1e3` and `2 \times 10^3` are numbers. A minus is a sign only where it is glued to its number and
no operand stands before it: "36 - 12", "2-3 days" and "COVID-19" hold no negative number. "Negative 5" is -5, and "is
minus 5" too, but "7 minus 5" subtracts. Before all that a box holds, and as U+2212 where a statement begins, a minus
may stand apart: `\boxed{- 5}` is -5, and so is `#### - 5`. "1.5 million" is 1500000, see `scale`. Groups of three
digits after blanks are one number in "1 234 567" and "118 000"; "1 234" may be two, and is none. 1'234 and 1.234,50
are numbers too, see `separators`.

**What not.** A list, a range, a ratio, a time or an expression (see `expressions`) is not one number: where the text
states one of these, there is no answer, even if a number stands elsewhere. A sentence that states several numbers
otherwise ("Answer: Tom has 3 pens and then loses 2") is no statement.
"""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from expert_condenser.evaluation.answers.emphasis import bold_parts, last_units
from expert_condenser.evaluation.answers.expressions import is_expression, without_text
from expert_condenser.evaluation.answers.passage import boxes, emphasised, marked, plain, statements
from expert_condenser.evaluation.answers.scale import scaled
from expert_condenser.evaluation.answers.separators import plain_separators
from expert_condenser.evaluation.answers.typography import plain_signs

FLOAT_NOISE = Fraction(1, 10**9)
MIN_DIGITS = 2
MAX_LENGTH = 300
"""A longer run of digits is a model that repeats itself."""
SIGHT = 40
"""Characters before a number that say what it is."""

_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_LENGTH = r"[mcdk]?m|(?:centi|milli|kilo)?met(?:er|re)s?|in|inch(?:es)?|ft|foot|feet|yds?|yards?|mi|miles?|units?"
_BEFORE_SIGN = r"\A|[=:(\[#*]|\b(?:is|was|are|be|been|equals?|becomes|gives|get|to|at|about|exactly|or|of|answer)\b"
_REWRITES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"(\d?)([½¼¾⅓⅔])", lambda found: f"{found[1]} {_FRACTIONS[found[2]]}"),
    (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"(?<=\d)\s*\\[dtc]?frac", r" \\frac"),
    (r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
    (r"(?<=\d)(?:\{,\}|\\[,!]\s?)(?=\d{3})", ","),
    (r"\\[,;:! ]|~", " "),
    (r"\^\s*\{?\s*\\circ\s*\}?|°", " degrees"),
    (rf"(?<![A-Za-z\\])({_LENGTH}|s|secs?|seconds?)\}}?\s*\^\s*(?:\{{\s*-?[1-4]\s*\}}|-?[1-4](?!\d))", r"\1 "),
    (r"(\\(?:text|mathrm|mbox)\s*\{[^{}]*\})\s*\^\s*(?:\{\s*-?[1-4]\s*\}|-?[1-4](?!\d))", r"\1 "),
    (r"\\times|\\cdot|[\u00d7\u00b7]", "*"),
    (r"(?<=\d)\s*[*x]\s*10\s*\^\s*\{?\s*([-+]?\d{1,3})\s*\}?", r"e\1"),
    (r"\\([$%])", r"\1"),
    (r"\\([A-Za-z]+)\s*", r" \1 "),
    (r"(?<!\S)\$\s*-\s+(?=\.?\d[\d.,]*\s*\$)", "$-"),
    (r"(?<=[A-Za-z])[$€£¥₹]|[$€£¥₹](?=\s?[^\s\d.]|\s*$)", " "),
    (r"[$€£¥₹]\s?", ""),
    (r"[{}]", " "),
    (r"(?i)\bnegative\s+(?=\.?\d)", "-"),
    (rf"(?i)({_BEFORE_SIGN})(\s*)minus\s+(?=\.?\d)", r"\1\2-"),
    (
        r"(?<![\w.,])(?<!\d )\d{1,3}(?:(?: \d{3}){2,}| 000)(?:\.\d+)?(?![\w/]|[,. ]\d)",
        lambda found: found[0].replace(" ", ""),
    ),
]
_TOKEN = re.compile(
    r"""(?<![\w.])(?<![A-Za-z]-)(?:
    (?P<mixed>\d+[ ]+(?:and[ ]+)?\d+[ ]?/[ ]?\d+) |
    (?P<plain>\d{1,3}(?:,\d{2,3}){0,99},\d{3}(?!,*\d)(?:\.\d+)? | \d+(?:\.\d+)? | \.\d+)
    (?P<exponent>e[-+]?\d{1,3}(?!\w))? (?P<over>[ ]?/[ ]?\d+(?:\.\d+)?)?
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_WORDS = r"\s*%?\s*(?:[a-z]+\s+){0,3}"
_UNIT = r"\s*(?:hours?|hrs?|minutes?|mins?|days?|weeks?|months?|years?|feet|foot|ft|pounds?|lbs?|dollars?)\s+"
_PAIR = re.compile(rf"{_WORDS}(?:and|or|to)\s+|\s*%?\s*[-:]\s*|{_UNIT}|[ ]+", re.IGNORECASE)
_LIST = re.compile(rf"{_PAIR.pattern}|\s*%?\s*(?:[a-z]+\s*){{0,3}},\s*(?:(?:and|or)\s+)?", re.IGNORECASE)
_ASIDE = re.compile(
    r"\b(?:of|for|per|in|from|after|before|on|at|with|every|each|by|than"
    r"|de|en|pour|dans|por|para|für|von|pro|в|из|на|за)\b",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"\(|\b(?:because|since|as|which|so|where|rounded|not|porque|parce|car|denn|weil|потому|так|因为|因為)\b",
    re.IGNORECASE,
)
_EXPRESSION = re.compile(r"sqrt|\bpi\b|[π√^]|\d\s*[*+]\s*\d")
_REFERENCE = re.compile(r"\b(?:step|equation|eq\.|see\s+[a-z]+)\s*[(#]?$", re.IGNORECASE)
_LEAD = re.compile(
    r"""(?:that\s+(?:[a-z']+\s+){0,5}|not\s+\S+\s+but\s+)?
    (?:(?:about|approximately|approx|around|roughly|nearly|almost|exactly|precisely|simply|just|only|therefore|thus|hence
    |then|now|still|also|again|indeed|actually|the|an?|total|of|at|least|most|equal|to|is|number|answer|rs|us|usd|inr|eur)\b
    |[^\w.]|\.(?!\d))*[-+]?""",
    re.VERBOSE | re.IGNORECASE,
)


class _Found(NamedTuple):
    start: int
    end: int
    text: str


def extract(text: str) -> str | None:
    """The number that a text gives as its answer, without separators and units, or None."""
    for part in emphasised(text):
        for number in _candidates(part):
            if number is not None:
                return number or None
    return None


def equal(extracted: str, gold: str) -> bool:
    """Whether two numbers are the same, as exact fractions: -15.0 is -15 and 0.75 is 3/4.

    Two differences are allowed. Noise of floating point: at most a billionth of the gold answer (MAWPS has
    golds like 1.8333333333333335); so no two whole numbers below a billion are taken for one. And rounding: the one
    with fewer decimals has at least two of them and at least two significant digits, and the other rounds to it.
    So "1.83" answers 1.8333333333333335, but neither "1.8", "2" nor, for 0.0833, "0.08" does.
    """
    left, right = _value(extracted), _value(gold)
    if left is None or right is None:
        return False
    difference = abs(left - right)
    if difference <= FLOAT_NOISE * max(abs(left), abs(right)):
        return True
    coarse = min(extracted, gold, key=_decimals)
    decimals = _decimals(coarse)
    if not MIN_DIGITS <= decimals < MAX_LENGTH or len(re.sub(r"\D", "", coarse).lstrip("0")) < MIN_DIGITS:
        return False
    return difference <= Fraction(1, 2 * 10**decimals)


def exact(text: str) -> str | None:
    """The number that a text is, with nothing else but currency, percent sign or final period; for gold answers."""
    text = rewritten(text).strip().removesuffix(".").removesuffix("%").strip()
    found = _numbers(text)
    whole = len(found) == 1 and found[0].end == len(text) and text[: found[0].start] in ("", "+", "-")
    return found[0].text if whole else None


def rewritten(text: str) -> str:
    """A text in which LaTeX, currency and typographic signs are written with plain characters."""
    text = plain_separators(plain_signs(text))
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    return scaled(text)


def _candidates(part: str) -> Iterator[str | None]:
    """What each rule finds, in their order: a number, "" for an answer that is not one number, None for nothing."""
    passage = plain(part)
    yield from map(_boxed, boxes(passage))
    text = rewritten(passage)
    yield from (_single(_with_sign(line.rstrip("! "))) for line in marked(text))
    yield from (_single(clause) for _, clause in reversed(statements(text)))
    yield _bold(part)
    yield _last(text)


def _boxed(content: str) -> str | None:
    """What a box holds; words there are units or say more of it, and make no sentence of an expression."""
    return "" if is_expression(rewritten(without_text(content))) else _single(_with_sign(rewritten(content)))


def _with_sign(content: str) -> str:
    """What a box or a marked line holds, with a minus in front of all of it glued to its number."""
    return re.sub(r"^\s*-\s+(?=\.?\d)", "-", content)


def _single(clause: str) -> str | None:
    """The one number that a statement is about, or "" where it states an expression or several."""
    if is_expression(clause):
        return ""
    left, sign, right = clause.rpartition("=")
    clause = right if sign and _numbers(right) else left if sign else clause
    found = _numbers(clause)
    if not found or not _LEAD.fullmatch(clause[: found[0].start]):
        return "" if found and re.match(r"\W*(?:between|from)\b", clause, re.IGNORECASE) else None
    if explained := _EXPLANATION.search(clause, found[0].end):
        found = [number for number in found if number.end <= explained.start()]
        clause = clause[: explained.start()]
    if _EXPRESSION.search(clause):
        return ""
    if len({_value(number.text) for number in found}) == 1:
        return found[0].text
    between = clause[found[0].end : found[1].start]
    if _LIST.fullmatch(between):
        return ""
    return found[0].text if _ASIDE.search(between) else None


def _bold(part: str) -> str | None:
    """The one bold number of the last sentence, else of the last line, unless an equation behind it has the result."""
    for unit in last_units(part):
        bold = [(number, after) for held, after in bold_parts(unit) if (number := _one(held))]
        if bold:
            number, after = bold[0]
            _, sign, result = re.sub(r"\([^()]*\)", " ", after).rpartition("=")
            return number if len(bold) == 1 and not (sign and _one(result)) else None
    return None


def _one(held: str) -> str | None:
    """The one number that a few words hold, or the right side of their equation."""
    text = rewritten(plain(held)).rpartition("=")[2]
    found = _numbers(text)
    return found[0].text if len(found) == 1 and not _EXPRESSION.search(text) else None


def _last(text: str) -> str | None:
    """The last number of a text that is no reference to a step, if it is not the end of a range or of a pair."""
    found = [
        number for number in _numbers(text) if not _REFERENCE.search(text[max(0, number.start - SIGHT) : number.start])
    ]
    if not found:
        return None
    if len(found) > 1 and _PAIR.fullmatch(text[found[-2].end : found[-1].start]):
        return ""
    return found[-1].text


def _numbers(text: str) -> list[_Found]:
    """Every number of a text, in order."""
    found = []
    for match in _TOKEN.finditer(text):
        number = _sign(text[max(0, match.start() - SIGHT) : match.start()]) + re.sub(r"\s*/\s*", "/", match[0]).replace(
            ",", ""
        ).replace(" and ", " ")
        if _value(number) is not None:
            found.append(_Found(match.start(), match.end(), " ".join(number.split())))
    return found


def _sign(before: str) -> str:
    """The sign of a number after this text: a minus that neither joins nor subtracts."""
    if re.search(r"=\s*-\s*$", before):
        return "-"
    glued = before.endswith("-") and not re.search(r"[\w)\]%]-$|[\d)\]%]\s*-$", before)
    return "-" if glued else ""


def _value(number: str) -> Fraction | None:
    """The exact value of `-1 1/2`, `3/4`, `1e3` or `-15.0`; None for a division by zero and for endless digits."""
    if len(number) > MAX_LENGTH:
        return None
    total = Fraction(0)
    try:
        for part in number.lstrip("+-").split():
            over, _, under = part.partition("/")
            total += Fraction(over) / Fraction(under or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return -total if number.startswith("-") else total


def _decimals(number: str) -> int:
    """How many decimals a number is written with; of a fraction, more than any."""
    if "/" in number:
        return MAX_LENGTH
    digits, _, exponent = number.lower().partition("e")
    return max(0, len(digits.partition(".")[2]) - int(exponent or 0))
