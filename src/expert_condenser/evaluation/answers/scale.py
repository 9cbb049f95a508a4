r"""Numbers with a scale word: "1.5 million" and `1.5\text{ million}` are 1500000, "2 hundred thousand" is 200000.

A number is joined with the word right behind it and with no other: not with the first part of "million-dollar", and "1
and 2 million" keeps its 1. Terms that fall in scale are one number: "1 million 500 thousand" is 1500000.
"""

import re
from fractions import Fraction
from itertools import pairwise

_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BETWEEN = r"(?:[ \t-]|~|\\[,;:! ]|\\?(?:text|textrm|mathrm|mbox)\s*\{?)+"
_SCALE = rf"(?i:{'|'.join(_SCALES)})"
_NUMBER = r"(?:\d+[ \t]+)?\d+ ?/ ?\d+|\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TERM = rf"(?:{_NUMBER})(?:{_BETWEEN}{_SCALE}){{1,3}}s?(?![\w-])"
_TERMS = re.compile(rf"(?<![\w.,/])(?<!\d )({_TERM}(?:[ \t]+{_TERM})*)")
_PARTS = re.compile(rf"({_NUMBER})((?:{_BETWEEN}{_SCALE}){{1,3}}s?)(?![\w-])")


def scaled(text: str) -> str:
    """A text in which every number with scale words is written out."""
    return _TERMS.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    try:
        terms = [(_value(number), _scale(words)) for number, words in _PARTS.findall(found[1])]
    except (ValueError, ZeroDivisionError):  # endless digits, or "1/0 million": no number, so left to be none
        return found[0]
    scales = [scale for _, scale in terms]
    opened = "".join(re.findall(r"\\\w+\s*\{", found[1]))  # of LaTeX around the word: `\text{ million dollars}`
    if all(low < high for high, low in pairwise(scales)):
        return _text(sum(value * scale for value, scale in terms)) + opened
    return " ".join(_text(value * scale) for value, scale in terms) + opened


def _value(number: str) -> Fraction:
    plain = re.sub(r",|\{,\}|\\,", "", number)
    return sum((Fraction(part) for part in re.sub(r"\s*/\s*", "/", plain).split()), Fraction(0))


def _scale(words: str) -> int:
    product = 1
    for word in re.findall(_SCALE, words):
        product *= _SCALES[word.lower()]
    return product


def _text(value: Fraction | int) -> str:
    """A whole number, a decimal number where it ends, or a fraction."""
    value = Fraction(value)
    decimals = next((d for d in range(16) if (value * 10**d).denominator == 1), None)
    if decimals is None:
        return str(value)
    digits = f"{int(value * 10**decimals):0{decimals + 1}d}"
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
