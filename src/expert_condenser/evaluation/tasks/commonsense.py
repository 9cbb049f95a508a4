"""The eight commonsense sets, worded as in LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters, `dataset/`).

Their answers are one of few words, and a reference is `the correct answer is solution1`. BoolQ is asked without its
passage, as there. The test splits of BoolQ, PIQA, SIQA, HellaSwag and WinoGrande are published without answers, so
`test` is their validation split, on which they are reported everywhere. SIQA has no test split at all.
"""

from collections.abc import Callable, Sequence

from expert_condenser.data.formats import Row, text_of
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import ANSWER, ENDING, OPTION, SOLUTION, TRUTH, AnswerKind
from expert_condenser.evaluation.tasks.task import CONVERTED, Asked, Hub, Reader, Task, alpaca, choices_of, need, worded

ALPACA = alpaca("plain")
CHOOSE = "Please choose the correct {kind} to {rest}"


def instruction(kind: str, rest: str, texts: Sequence[str], between: str = " ", last: str = "\n\n") -> str:
    """A question with its numbered options and the answer format."""
    options = between.join(f"{kind.capitalize()}{number}: {text}" for number, text in enumerate(texts, start=1))
    words = "/".join(f"{kind}{number}" for number in range(1, len(texts) + 1))
    return f"Please choose the correct {kind} to {rest}\n\n{options}{last}Answer format: {words}"


def _boolq(row: Row) -> Asked:
    question = need(row, "question").strip().removesuffix("?")
    text = (
        f"Please answer the following question with true or false, question: {question}?\n\nAnswer format: true/false"
    )
    return worded(row, text_of(row.get("answer")).lower(), "plain", instruction=text)


def _piqa(row: Row) -> Asked:
    texts = need(row, "sol1"), need(row, "sol2")
    text = instruction("solution", f"the question: {need(row, 'goal')}", texts, between="\n\n")
    return worded(row, _numbered("solution", row, "label", texts, first=0), "plain", instruction=text)


def _siqa(row: Row) -> Asked:
    texts = need(row, "answerA"), need(row, "answerB"), need(row, "answerC")
    text = instruction("answer", f"the question: {need(row, 'context')} {need(row, 'question')}", texts)
    return worded(row, _numbered("answer", row, "label", texts), "plain", instruction=text)


def _hellaswag(row: Row) -> Asked:
    texts = choices_of(row, "endings")
    label = text_of(row.get("activity_label"))
    rest = f"complete the given sentence: {label + ': ' if label else ''}{need(row, 'ctx')}"
    return worded(
        row, _numbered("ending", row, "label", texts, first=0), "plain", instruction=instruction("ending", rest, texts)
    )


def _winogrande(row: Row) -> Asked:
    texts = need(row, "option1"), need(row, "option2")
    rest = f"fill in the blank to complete the given sentence: {need(row, 'sentence')}"
    text = instruction("option", rest, texts, last=" ").replace("correct option", "correct answer", 1)
    return worded(row, _numbered("option", row, "answer", texts), "plain", instruction=text)


def _with_key(column: str) -> Callable[[Row], Asked]:
    """ARC and OpenBookQA: `choices` holds `text` and `label`, and `answerKey` is a label (A to E, or 1 to 5)."""

    def read(row: Row) -> Asked:
        choices = row.get("choices")
        choices = choices if isinstance(choices, dict) else {}
        texts, labels = choices_of(choices, "text"), choices_of(choices, "label")
        key = text_of(row.get("answerKey")).strip()
        if key not in labels:
            raise DataError(f"'answerKey' must be one of {', '.join(labels)}, but it is {key!r}; correct the row")
        text = instruction("answer", f"the question: {need(row, column)}", texts)
        return worded(row, f"answer{labels.index(key) + 1}", "plain", instruction=text)

    return read


def _numbered(kind: str, row: Row, column: str, texts: Sequence[str], first: int = 1) -> str:
    """The word of a label that counts from `first`."""
    label = text_of(row.get(column)).strip()
    if not label.isdigit() or not first <= int(label) < first + len(texts):
        raise DataError(
            f"{column!r} must be a number from {first} to {first + len(texts) - 1}, but it is {label!r}; "
            "correct it, or name a split that has answers"
        )
    return f"{kind}{int(label) - first + 1}"


def _task(name: str, hub: Hub, files: tuple[str, ...], answer: AnswerKind, reader: Reader) -> Task:
    return Task(name, hub, files, answer, (ALPACA, reader), 32)


_ARC = Reader(("question", "choices", "answerKey"), _with_key("question"))
BOOLQ = _task(
    "boolq", Hub("google/boolq", test="validation"), ("boolq",), TRUTH, Reader(("question", "answer"), _boolq)
)
PIQA = _task(
    "piqa",
    Hub("ybisk/piqa", revision=CONVERTED, test="validation"),
    ("piqa",),
    SOLUTION,
    Reader(("goal", "sol1", "sol2", "label"), _piqa),
)
SIQA = _task(
    "siqa",
    Hub("allenai/social_i_qa", revision=CONVERTED, test="validation"),
    ("social_i_qa", "siqa"),
    ANSWER,
    Reader(("context", "question", "answerA", "answerB", "answerC", "label"), _siqa),
)
HELLASWAG = _task(
    "hellaswag",
    Hub("Rowan/hellaswag", test="validation"),
    ("hellaswag",),
    ENDING,
    Reader(("ctx", "endings", "label"), _hellaswag),
)
WINOGRANDE = _task(
    "winogrande",
    Hub("allenai/winogrande", "winogrande_xl", revision=CONVERTED, test="validation"),
    ("winogrande",),
    OPTION,
    Reader(("sentence", "option1", "option2", "answer"), _winogrande),
)
ARC_EASY = _task("arc_easy", Hub("allenai/ai2_arc", "ARC-Easy"), ("ARC-Easy", "arc_easy"), ANSWER, _ARC)
ARC_CHALLENGE = _task(
    "arc_challenge", Hub("allenai/ai2_arc", "ARC-Challenge"), ("ARC-Challenge", "arc_challenge"), ANSWER, _ARC
)
OPENBOOKQA = _task(
    "openbookqa",
    Hub("allenai/openbookqa", "main"),
    ("openbookqa", "obqa"),
    ANSWER,
    Reader(("question_stem", "choices", "answerKey"), _with_key("question_stem")),
)
