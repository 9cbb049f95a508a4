r"""Where a text has given its answer: what follows an answer under a label such as "Example 2:" is no part of it.

Before that, a solution may work through examples.
"""

import re

from expert_condenser.evaluation.answers.heads import ANSWER_IS, CORRECTION, IN_OTHER_LANGUAGES

_VALUE = r"""(?:[^\w\n]|\n|\b(?:option|choice|about|approximately|therefore|thus|then|now|still|exactly|only|text)\b)*
    (?:\d | (?-i:[A-E])\b(?!\s+[a-z]) | (?:true|false|yes|no)\b | (?:solution|option|ending|answer)[ ]?\d | \\[a-z])"""
_ANSWER = re.compile(
    rf"""\\(?:boxed|fbox)\s*\{{\s*[^\s}}] | </(?:final_)?ans(?:wer)?> | \#{{4}}\s*[^\s\#]
    | (?:{ANSWER_IS}|{CORRECTION}|{IN_OTHER_LANGUAGES}|\banswer\**\s*:) {_VALUE}
    | \banswer\s+is\s[^\n.;:]{{0,80}}?\d""",
    re.IGNORECASE | re.VERBOSE,
)
_BARE = re.compile(
    r"""\W*(?:so\W+)?(?:[-\d.,/%$+*=()\u00d7\u00f7 ]*\d\W*(?:[^\W\d]+[ ]?){0,2}
    | [A-E] | true | false | yes | no | (?:solution|option|ending|answer)[ ]?\d)\W*""",
    re.IGNORECASE | re.VERBOSE,
)
_BARE_LENGTH = 80


def answered_at(text: str, start: int = 0) -> int:
    """Where a text first states an answer, from `start` on; its length, if it never does."""
    found = _ANSWER.search(text, start)
    return found.end() if found else len(text)


def is_bare_answer(text: str, start: int, end: int) -> bool:
    """Whether a part of a text is an answer alone: a number, with its unit or as the end of a sum, a letter, a word."""
    return end - start <= _BARE_LENGTH and _BARE.fullmatch(text, start, end) is not None
