r"""Answers that are LaTeX expressions, as in MATH-500.

The first of these that holds anything: the last `\boxed{…}`; the line after the last `####`; the last statement
("the answer is $x+1$"); the last formula in dollars; the last number.

Two answers are equal if they are the same numbers by the rules of `number`, or the same text after layout is
dropped: spaces, `\left`, `\dfrac`, `\text`, units and degrees after a number, percent and dollar signs, `x =`, the
braces around one character of an index or exponent. `√2` is `\sqrt{2}`, and `x=1 \text{ or } x=2` is `1,2`.
Tuples and intervals are compared part by part, in their order and with their brackets, as are lists. What differs by
these rules of layout may still be equal by algebra, where math-verify is installed: `1+x` is `x+1`, `1,2` is `2,1`. Two
plain numbers, and lists in different brackets, are left to the rules here.
"""

import re
from collections.abc import Callable, Iterator

from expert_condenser.evaluation.answers import algebra, number
from expert_condenser.evaluation.answers.passage import boxes, emphasised, marked, plain, statements
from expert_condenser.evaluation.answers.scale import scaled
from expert_condenser.evaluation.answers.typography import plain_signs

_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
PERCENT = r"\\%"
_LAYOUT: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle)(?![a-z])", ""),
    (r"\\[,;:!]|(?<!\\)\\ |~|\\quad|\{,\}", ""),
    (r"\\\$|\$", ""),
    (r"\\%|%", PERCENT),
    (r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree", ""),
    (r"(?<=[\d}])\s*(?:degrees?|\\(?:text|mathrm|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?)\s*\.?$", ""),
    (r",?\s*\\(?:text|textrm|mathrm|mbox)\s*\{\s*,?\s*(?:or|and)\s*\}|,?\s*\\(?:lor|vee)(?![a-z])", ","),
    (r"(?<=[\d})]),?\s+(?:or|and)\s+(?=[A-Za-z]\s*=)", ","),
    (r"\\(?:text|mathrm|mbox|textbf|mathbf|textit)\s*\{([^{}]*)\}", r"\1"),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{"),
    (rf"\\frac\s*({_GROUP})\s*(\w)", r"\\frac\1{\2}"),
    (r"√\s*(?=\{)|(?<![\\A-Za-z])sqrt\s*(?=\{)", r"\\sqrt"),
    (r"(?:√|(?<![\\A-Za-z])sqrt)\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"√\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\(?:cdot|times)(?![a-z])|[\u00d7\u00b7]", "*"),
    (r"\s+", ""),
    (r"([\^_])\{(\w)\}", r"\1\2"),
    (r"^([A-Za-z])=[^=]+(?:,\1=[^=]+)+$", lambda found: found[0].replace(f",{found[1]}=", ",")),
    (r"^[A-Za-z](?:\([a-z]\))?(?:=|\\in(?![a-z]))", ""),
    (r"\.$", ""),
    (r"(?<![\w.}])(\d+)/(\d+)(?![\w.])", r"\\frac{\1}{\2}"),
    (r"^\(([A-Z])\)$", r"\1"),
]


def extract(text: str) -> str | None:
    """The expression that a text gives as its answer, without layout, or None."""
    for part in emphasised(text):
        for found in _candidates(plain(part)):
            if normal(found):
                return laid_out(found)
        if last := number.extract(part):
            return last
    return None


def equal(extracted: str, gold: str) -> bool:
    """Whether two expressions are the same but for layout, or equal by algebra."""
    if same(extracted, gold):
        return True
    left, right = laid_out(extracted), laid_out(gold)
    numbers = all(number.exact(normal(text)) is not None for text in (left, right))
    if (numbers and "%" not in left + right) or _in_other_brackets(left, right):
        return False
    return algebra.equal(left, right)


def same(one: str, other: str) -> bool:
    """Whether two expressions are the same number, the same parts in the same brackets, or the same text."""
    left, right = normal(one), normal(other)
    if left == right:
        return True
    numbers = number.exact(left), number.exact(right)
    if numbers[0] is not None and numbers[1] is not None:
        return number.equal(numbers[0], numbers[1])
    (first, parts, last), (first_other, parts_other, last_other) = _parts(left), _parts(right)
    if (first, last, len(parts)) != (first_other, last_other, len(parts_other)) or len(parts) == 1:
        return False
    return all(map(same, parts, parts_other))


def exact(text: str) -> str | None:
    """The expression that a text is; for gold answers."""
    return laid_out(text) if normal(text) else None


def normal(text: str) -> str:
    """An expression without its layout and percent signs."""
    return _without(text, "")


def laid_out(text: str) -> str:
    """An expression without its layout; percent signs stay, for algebra."""
    return _without(text, PERCENT)


def _without(text: str, percent: str) -> str:
    text = scaled(plain_signs(text).strip())
    for pattern, replacement in _LAYOUT:
        text = re.sub(pattern, percent if replacement is PERCENT else replacement, text)
    return text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text) else text


def _in_other_brackets(left: str, right: str) -> bool:
    """Whether two expressions are lists, and their brackets are not the same: a pair is no set, an interval no pair."""
    if "," not in left or "," not in right or r"\cup" in left + right:
        return False
    return _parts(left)[::2] != _parts(right)[::2]


def _candidates(passage: str) -> Iterator[str]:
    yield from boxes(passage)
    yield from marked(passage)
    for _, clause in reversed(statements(passage)):
        formula = clause.partition("$")[0]
        if formula.strip() and (len(formula.split()) == 1 or re.search(r"[\d\\=]", formula)):
            yield formula
    yield from re.findall(r"\$([^$]+)\$", passage)[-1:]


def _parts(text: str) -> tuple[str, list[str], str]:
    """The opening bracket, the parts between commas outside any other bracket, the closing bracket."""
    opening, closing = text[:1], text[-1:]
    if opening not in tuple("([") or closing not in tuple(")]"):
        opening = closing = ""
    inner, parts, depth = text[len(opening) : len(text) - len(closing)], [""], 0
    for character in inner:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return opening, parts, closing
