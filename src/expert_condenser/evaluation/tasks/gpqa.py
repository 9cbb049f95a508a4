"""GPQA-diamond: 198 questions of graduate level with four choices.

The choices are put in an order that depends on the texts of the question and of the choices alone, so the right one
is anywhere, and the same for everyone. They are worded like AQuA's. The hub asks for consent to the data set's terms
and has one split, `train`, which is the test set.
"""

from hashlib import sha256

from expert_condenser.data.formats import Row
from expert_condenser.evaluation.answers import LETTER
from expert_condenser.evaluation.tasks.math import ALPACA
from expert_condenser.evaluation.tasks.task import Asked, Hub, Reader, Task, need, worded

RIGHT = "Correct Answer"
WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


def shuffled(question: str, choices: list[str]) -> list[str]:
    """The choices in the order of their fingerprints with the question."""
    return sorted(choices, key=lambda choice: sha256(f"{question}\0{choice}".encode()).hexdigest())


def _gpqa(row: Row) -> Asked:
    question, right = need(row, "Question").strip(), need(row, RIGHT).strip()
    choices = shuffled(question, [right, *(need(row, column).strip() for column in WRONG)])
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    gold = "ABCD"[choices.index(right)]
    return worded(
        row, gold, "boxed", instruction=f"{question} Answer Choices: {options}", output=row.get("Explanation")
    )


GPQA_DIAMOND = Task(
    "gpqa_diamond",
    Hub("Idavidrein/gpqa", "gpqa_diamond", test="train"),
    ("gpqa_diamond",),
    LETTER,
    (ALPACA, Reader(("Question", RIGHT, *WRONG), _gpqa)),
    2048,
)
