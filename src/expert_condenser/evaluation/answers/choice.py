r"""Answers that are a letter from A to E, as in AQuA.

The first of these that names a letter: the last `\boxed{…}`; the line after the last `####`; the last statement
("the answer is (D)", "Answer: D", "the correct option is D", "D is correct", "I choose D", "it's D",
"leaving D"); "option D", if the text speaks of one option only; a line that is a letter ("D", "(D)", "D."); a line that
is one option ("D) 12"), if there is only one such line, else it repeats the question; the one letter in parentheses in
the last sentence.

A capital counts only in one of these places, and before "is correct" only where no noun stands before it, so "A train
leaves", "I think" and "Train B is the best" name nothing. A small
letter counts in parentheses, or if it is all that is stated. "A or B" is no answer, nor is "not B".
"""

import re
from collections.abc import Iterator

from expert_condenser.evaluation.answers.passage import boxes, marked, passages, statements

_ARTICLE = r"(?!\s+(?!(?:because|since|as|which|with|and|or|is|by|from)\b)[a-z])"
_CAPITAL = rf"(?:A{_ARTICLE}|[B-E])(?![\w'^]|\s*=)"
_MARKED = r"[(\[]\s*(?P<marked>[A-Ea-e])\s*[)\]]"
_STATED = re.compile(
    rf"""[\s:"'$]*(?:(?i:option|choice|letter|answer|la|el|die|opción|opção|opzione|вариант|选项|選項|the|therefore|thus|clearly|likely|most|probably|still|then|now)\b[\s:]*)*
    (?:{_MARKED}|(?P<capital>{_CAPITAL})|(?P<small>[a-e])\s*(?:[).]|$))""",
    re.VERBOSE,
)
_CHOSEN = r"""\b(?:correct|right|best)\s+(?:option|choice|alternative|letter)
      \s*(?:is|was|(?:would|should|must|will)\s+be|:)
    | (?:\bnot|n't)\s+(?:option\s+)?[(\[]?[A-E][)\]]?[.,;]?\s+(?:but(?:\s+rather)?|(?:it|that)(?:'s|\s+is))\b
    | (?:\b(?:it|that)(?:'s|\s+is|\s+must\s+be|\s+has\s+to\s+be)|\b(?:leaving|leaves)(?:\s+(?:us|only|just|with))*)
      (?=\s+(?:option\s+|choice\s+)?(?:\((?-i:[A-E])\)|(?-i:[A-E]))\s*(?:[.,;:!\n]|\Z|(?:because|since|as|which|by)\b))
    | \b(?:choose|select|pick|go\s+with)\b | (?:选择|選擇|选|選)(?![项項择擇])"""
_LINKS = "option|choice|answer|letter|so|thus|hence|therefore|then|that|only|but|because|since|clearly"
_CONFIRMED = re.compile(
    rf"""(?:{_MARKED}
    | (?:^|[.!?;:,]\s*|\b(?i:{_LINKS})\s+)
      (?P<capital>{_CAPITAL}))
    [ ]+is[ ]+(?:the[ ]+)?(?:correct|right(?!\s+(?:on|of|at|in|next|behind|after|before)\b)|best|answer)""",
    re.VERBOSE | re.MULTILINE,
)
_MENTIONED = re.compile(
    rf"\b(?i:option|choice|answer)s?\s+(?:{_MARKED}|(?P<capital>{_CAPITAL}))(?!\s*:|\s+(?:is|was)\s+(?:not|wrong|in|false))"
)
_SEVERAL = re.compile(r"[)\]\s]*(?:or|and|,|/|&)\s*(?:option\s+)?\(?[A-E]\b(?!\s*is)")
_NEXT_OPTION = re.compile(r"(?:(?!\b(?:since|because|as|not|while|whereas|but|rather)\b).)*?\bB\s?\)")
_ALONE = re.compile(r"^\W*([A-E])\W*$", re.MULTILINE)
_LABELLED = re.compile(r"^[ \t]*\(?([A-E])([).:])[ \t]+\S", re.MULTILINE)


def extract(text: str) -> str | None:
    """The letter that a text gives as its answer, as a capital, or None."""
    for passage in passages(text):
        for letter in _candidates(passage):
            if letter is not None:
                return letter or None
    return None


def equal(extracted: str, gold: str) -> bool:
    """Whether two letters are the same, in either case."""
    return extracted.upper() == gold.upper()


def exact(text: str) -> str | None:
    """The letter that a text is, with or without parentheses; for gold answers."""
    found = re.fullmatch(r"\(?([A-Ea-e])\)?\.?", text.strip())
    return found[1].upper() if found else None


def _candidates(passage: str) -> Iterator[str | None]:
    """What each rule finds, in their order: a letter, "" for two letters at once, None for nothing."""
    yield from (_stated(_without_text(content)) for content in boxes(passage))
    passage = _without_text(passage)
    yield from map(_stated, marked(passage))
    said = [(start, _stated(clause)) for start, clause in statements(passage, _CHOSEN)]
    said += [(match.start(), _letter(match)) for match in _CONFIRMED.finditer(passage)]
    yield from (letter for _, letter in sorted(said, key=lambda pair: -pair[0]))
    yield _only({_letter(match) for match in _MENTIONED.finditer(passage)})
    alone = _ALONE.findall(passage)
    yield alone[-1] if alone else exact(passage)
    yield _only(_labelled(passage))
    sentence = re.split(r"\n|[.!?]\s+(?=\S)", passage)[-1]
    yield _only({letter.upper() for letter in re.findall(r"(?<!not )\(([A-E])\)", sentence)})


def _stated(clause: str) -> str | None:
    """The letter that a statement begins with."""
    found = _STATED.match(clause)
    if found is None:
        return None
    if _SEVERAL.match(clause, found.end()):
        return ""
    letter = _letter(found)
    listing = letter == "A" and _NEXT_OPTION.match(clause, found.end())
    return None if listing else letter


def _letter(found: re.Match[str]) -> str:
    return next(text for text in found.groupdict().values() if text).upper()


def _labelled(passage: str) -> set[str]:
    """The letters of the options that are lines of their own; a lone `A:` opens an answer, as `Q:` does a question."""
    labels = _LABELLED.findall(passage)
    colons = {letter for letter, sign in labels if sign == ":"}
    return {letter for letter, sign in labels if sign != ":"} | (colons if colons != {"A"} else set())


def _only(letters: set[str]) -> str | None:
    return letters.pop() if len(letters) == 1 else None


def _without_text(text: str) -> str:
    r"""A text without the `\text{…}` of LaTeX around its letters."""
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
