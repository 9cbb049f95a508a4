"""From a generated text to its answer, and whether that is the right one: one file per kind of answer.

A kind never looks at the gold answer while it reads a text. The rules stand at the top of each file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from expert_condenser.evaluation.answers import algebra, choice, latex, number, words
from expert_condenser.evaluation.answers.thoughts import said


@dataclass(frozen=True)
class AnswerKind:
    """How the answers of a task are read and compared."""

    name: str
    wanted: str
    """What a gold answer must be, for messages."""
    extract: Callable[[str], str | None]
    """The answer that a generated text gives, or None."""
    equal: Callable[[str, str], bool]
    """Whether an extracted answer is the gold one."""
    read_gold: Callable[[str], str | None]
    """A gold answer in its normal form, or None if it is not of this kind."""
    comparison: Callable[[], str] | None = None
    """What decides equality here, where that is not this package alone."""


def _options(stem: str) -> AnswerKind:
    example = f"{stem}1, {stem}2, …"
    return AnswerKind(
        stem, example, partial(words.extract_option, stem), words.equal, partial(words.exact_option, stem)
    )


def final_answer(text: str) -> str:
    """What an answer of the testbed states: the text after its last `####`, or all of it, without outer white space."""
    return text.rpartition("####")[2].strip()


def _verbatim(text: str) -> str | None:
    parts = said(text)
    return final_answer(parts[0]) or None if parts else None


def _gold(text: str) -> str | None:
    return final_answer(text) or None


NUMBER = AnswerKind("number", "a number", number.extract, number.equal, number.exact)
LETTER = AnswerKind("letter", "a letter from A to E", choice.extract, choice.equal, choice.exact)
TRUTH = AnswerKind("truth", "true or false", words.extract_truth, words.equal, words.exact_truth)
SOLUTION, OPTION, ENDING, ANSWER = map(_options, ("solution", "option", "ending", "answer"))
LATEX = AnswerKind("latex", "an expression", latex.extract, latex.equal, latex.exact, algebra.comparison)
VERBATIM = AnswerKind("verbatim", "a text", _verbatim, str.__eq__, _gold)
"""The text after the last `####`, or all of it, to the letter: the testbed's answers."""
