"""The options of a question, for log-likelihoods: read from the question, which lists them in LLM-Adapters' wording."""

import re
from typing import NamedTuple

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.answers import ANSWER, ENDING, OPTION, SOLUTION, TRUTH, AnswerKind
from expert_condenser.evaluation.tasks.task import LoadedTask, Question

LISTED: tuple[AnswerKind, ...] = (SOLUTION, OPTION, ENDING, ANSWER)
KINDS = (*LISTED, TRUTH)
"""The kinds of answer whose questions have options: those of the commonsense sets."""
_FORMAT = re.compile(r"\s*Answer format:[^\n]*\s*\Z")


class Option(NamedTuple):
    """What may be the answer to a question."""

    word: str
    """What the gold answer is, if it is this one: `solution1`."""
    text: str
    """What the question says behind `Solution1:`."""
    answer: str
    """What training writes: `the correct answer is solution1`."""


def options_of(task: LoadedTask, question: Question) -> list[Option]:
    """The options of a question, in their order; raises `EvaluationError` where it lists none."""
    if task.answer is TRUTH:
        found = {"true": "true", "false": "false"}
    else:
        found = _listed(task.answer.name, question.prompt[-1]["content"])
    if question.gold not in found or len(found) < 2 or not all(found.values()):
        raise EvaluationError(
            f"a question of {task.name} lists its options as {task.answer.name.capitalize()}1: …, with the gold one "
            f"among them; question {question.id} has {', '.join(found) or 'none'}, and {question.gold} is the gold one"
        )
    return [Option(word, text, f"the correct answer is {word}") for word, text in found.items()]


def _listed(stem: str, text: str) -> dict[str, str]:
    """The texts behind `Solution1:`, `Solution2:` and so on: each label where it stands last before the next one."""
    found: dict[str, str] = {}
    end = _FORMAT.search(text)
    rest = text[: end.start()] if end else text
    count = len(re.findall(rf"(?i)\b{stem}\d+\b", text[end.start() :])) if end else 0
    for number in range(count, 0, -1):
        rest, label, option = rest.rpartition(f"{stem.capitalize()}{number}:")
        if not label:
            return {}
        found[f"{stem}{number}"] = option.strip()
    return dict(reversed(found.items()))
