r"""Answers that are a word of the LLM-Adapters sets: `solution1`, `option2`, `ending3`, `answer4`, or `true`, `false`.

The first of these that names one word: the last `\boxed{…}`; the line after the last `####`; the last statement ("the
correct answer is solution1", "solution 1 is correct"); for true and false, the word that the text opens with; the one
word that the text names at all.

The echoed answer format ("solution1/solution2", "true or false") and the repeated options ("Solution1: … Solution2: …")
name nothing, nor does a word that is denied ("solution1 is wrong", "not solution1"). A bare number counts where it is
all that is stated ("the answer is 2"). Another set's word does not count: "answer2" says nothing about two solutions.
"yes" is true and "no" is false where they are stated, or open the text and end there or at a comma or stop; so are
their words in other languages ("答案是：否").
"not true", "never true", "untrue" and "incorrect" are false; "not false" is true; "a true story" is neither, as is
"neither true nor false".
"""

import re
from collections.abc import Iterator

from expert_condenser.evaluation.answers.passage import boxes, marked, passages, statements

_LEAD = r"""[\s:"'(]*(?:(?:the|therefore|thus|clearly|likely|most|probably|definitely|still|then|now|that|it|is|this)\b
    [\s:"'(]*)*"""
_DENIED = r"\s+(?:is|was|are|seems)\s+(?:not\b|wrong|incorrect|false|worse|bad)"
_DENYING = r"(?:\b(?:not|cannot|neither|nor)|n't)\s+(?:(?:be|the|likely|probably|necessarily)\s+)*"
_TRUTH = {"true": "true", "yes": "true", "correct": "true", "false": "false", "no": "false", "incorrect": "false"}
_TRUTH_ELSEWHERE = {
    **dict.fromkeys(
        ("是的", "是", "对", "對", "正确", "正確", "真", "はい", "예", "네", "맞다", "да", "верно"), "true"
    ),
    **dict.fromkeys(("sí", "si", "verdadero", "oui", "vrai", "ja", "wahr", "sim", "verdadeiro", "vero"), "true"),
    **dict.fromkeys(
        ("否", "不是", "不", "错", "錯", "错误", "錯誤", "不对", "不對", "不正确", "假", "いいえ"), "false"
    ),
    **dict.fromkeys(("아니요", "아니오", "нет", "неверно", "falso", "non", "faux", "nein", "falsch", "não"), "false"),
}
"""Words of other languages, which count where they are all that is stated, or stand before a comma."""
_DENIAL = r"(?P<denied>(?:\b(?:not|cannot|never)|n't)\s+(?:\w+\s+)?)?\b(?P<un>un)?"
_OF_A_NOUN = r"(?!\s+(?!statement|claim|that|because|since|as|for|and|or|if|in|when|is|but)[a-z])"
_TRUTH_STATED = re.compile(
    rf"{_LEAD}{_DENIAL}(?P<word>true|false|yes|no|correct|incorrect)\b", re.IGNORECASE | re.VERBOSE
)
_TRUTH_ELSEWHERE_STATED = re.compile(
    rf"[\s:\"'(]*(?P<word>{'|'.join(sorted(_TRUTH_ELSEWHERE, key=len, reverse=True))})(?=\s*(?:[,.;:!)\"'\n]|\Z))",
    re.IGNORECASE,
)
_TRUTH_NAMED = re.compile(rf"{_DENIAL}(?P<word>true|false)\b{_OF_A_NOUN}", re.IGNORECASE)
_TRUTH_OPENING = re.compile(r"\W*(?P<word>true|false|(?:yes|no)(?=\s*(?:[,.!;:\n]|$)))\b", re.IGNORECASE)
_TRUTH_ECHO = re.compile(r"\b(?:true|false|yes|no)\s*(?:/|or|nor|,)\s*(?:true|false|yes|no)\b", re.IGNORECASE)


def extract_option(stem: str, text: str) -> str | None:
    """The option that a text gives as its answer, as `solution1` for the stem `solution`, or None."""
    for passage in passages(text):
        number = next(filter(None, _option_candidates(stem, passage)), None)
        if number is not None:
            return f"{stem}{number}"
    return None


def extract_truth(text: str) -> str | None:
    """The truth value that a text gives as its answer, or None."""
    for passage in passages(text):
        word = next(filter(None, _truth_candidates(_TRUTH_ECHO.sub(" ", passage))), None)
        if word is not None:
            return word
    return None


def equal(extracted: str, gold: str) -> bool:
    """Whether two words are the same, in either case."""
    return extracted.lower() == gold.lower()


def exact_option(stem: str, text: str) -> str | None:
    """The option that a text is, as `solution1`; for gold answers."""
    found = re.fullmatch(rf"{stem}\s?(\d+)", text.strip(), re.IGNORECASE)
    return f"{stem}{found[1]}" if found else None


def exact_truth(text: str) -> str | None:
    """The truth value that a text is; for gold answers."""
    word = text.strip().lower()
    return word if word in ("true", "false") else None


def _option_candidates(stem: str, passage: str) -> Iterator[str | None]:
    option = rf"\b{stem}[ ]?[\#(]?[ ]?(\d+)\b"
    passage = re.sub(rf"(?i){option}(?:\)?\s*(?:/|,|or|and)\s*{option})+", " ", passage)
    passage = re.sub(rf"(?i){_DENYING}{option}(?:,?\s+but(?:\s+rather)?\b)?", " ", passage)
    listed = re.findall(rf"(?i){option}\)?:", passage)
    if len(set(listed)) > 1:
        passage = re.sub(rf"(?i){option}\)?:", " ", passage)
    stated = re.compile(rf"(?:{_LEAD})(?:{option}|(\d+)\W*$)", re.IGNORECASE | re.VERBOSE)
    for clause in (*boxes(passage), *marked(passage)):
        yield _group(stated.match(re.sub(r"\\\w+\s*\{", "", clause)))
    said = [(start, _group(stated.match(clause))) for start, clause in statements(passage)]
    confirmed = re.compile(rf"{option}\)?\s+is\s+(?:the\s+)?(?:correct|right|best|better|answer)", re.IGNORECASE)
    said += [(found.start(), found[1]) for found in confirmed.finditer(passage)]
    yield from (number for _, number in sorted(said, key=lambda pair: -pair[0]))
    yield _group(re.fullmatch(r"\W*(\d+)\W*", passage))
    named = set(re.findall(rf"(?i){option}(?!\)?{_DENIED})", passage))
    yield named.pop() if len(named) == 1 else None


def _truth_candidates(passage: str) -> Iterator[str | None]:
    for clause in (*boxes(passage), *marked(passage)):
        yield _stated_truth(re.sub(r"\\\w+\s*\{", "", clause))
    yield from (_stated_truth(clause) for _, clause in reversed(statements(passage)))
    yield _truth(_TRUTH_OPENING.match(passage) or _TRUTH_ELSEWHERE_STATED.match(passage))
    named = {_truth(found) for found in _TRUTH_NAMED.finditer(passage)}
    yield named.pop() if len(named) == 1 else None


def _stated_truth(clause: str) -> str | None:
    return _truth(_TRUTH_STATED.match(clause) or _TRUTH_ELSEWHERE_STATED.match(clause))


def _group(found: re.Match[str] | None) -> str | None:
    return next((group for group in found.groups() if group), None) if found else None


def _truth(found: re.Match[str] | None) -> str | None:
    """The word's truth value, turned round by each denial."""
    if found is None:
        return None
    groups = found.groupdict()
    value = (_TRUTH | _TRUTH_ELSEWHERE)[groups["word"].lower()]
    denials = sum(bool(groups.get(name)) for name in ("denied", "un"))
    return value if denials % 2 == 0 else {"true": "false", "false": "true"}[value]
