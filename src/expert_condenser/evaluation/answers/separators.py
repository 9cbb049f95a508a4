"""Separators within a number, as several countries write them: 1'234, 1_234 and 1.234,50 become 1234, 1234 and 1234.50.

Of a point and a comma in one number the last one is the decimal sign; several points, each before three digits, are
separators. A comma alone is left as it is: "24,5" may be a list.
"""

import re

_BLANK = "\u00a0\u202f\u2009"
"""Blanks at which no line is broken; a plain one may stand between two numbers."""
_AT = rf"(?<![\w.,'])(?<!\d[ {_BLANK}])"
_END = r"(?![\w']|[.,]\d)"
_GROUPED = re.compile(rf"{_AT}(\d{{1,3}}(?:['_{_BLANK}]\d{{3}})+)(?![\w']|,\d)")
_WITH_COMMA = re.compile(rf"{_AT}([1-9]\d{{0,2}}(?:(?:\.\d{{3}})+|(?:[ '{_BLANK}]\d{{3}})+)),(\d+){_END}")
_POINTS = re.compile(rf"{_AT}([1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}){_END}")


def plain_separators(text: str) -> str:
    """A text whose numbers have no separators of these kinds, and a point as their decimal sign."""
    text = _WITH_COMMA.sub(lambda found: f"{_digits(found[1])}.{found[2]}", text)
    text = _POINTS.sub(lambda found: _digits(found[1]), text)
    return _GROUPED.sub(lambda found: _digits(found[1]), text)


def _digits(number: str) -> str:
    return re.sub(r"\D", "", number)
