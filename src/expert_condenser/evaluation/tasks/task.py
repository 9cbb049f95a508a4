"""A task: questions with their gold answers, and how an answer is read."""

from collections.abc import Callable
from dataclasses import dataclass

from expert_condenser.training.formats import Message


@dataclass(frozen=True)
class Question:
    """One item; `reference` is the whole answer as training would write it, or empty."""

    id: str
    prompt: list[Message]
    gold: str
    reference: str


@dataclass(frozen=True)
class AnswerKind:
    """How an answer is read out of a text, and compared."""

    name: str
    extract: Callable[[str], str | None]
    equal: Callable[[str, str], bool]


@dataclass(frozen=True)
class LoadedTask:
    """A task with its questions."""

    name: str
    questions: list[Question]
    answer: AnswerKind
    max_new_tokens: int
