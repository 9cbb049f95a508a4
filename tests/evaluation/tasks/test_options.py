"""The options of a question, read from the question."""

import pytest

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.tasks import TASKS, load
from expert_condenser.evaluation.tasks.commonsense import instruction
from expert_condenser.evaluation.tasks.options import Option, options_of
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from tests.samples import folders

SETS = ("boolq", "piqa", "siqa", "winogrande", "arc_easy", "arc_challenge", "openbookqa")


def question(content, gold):
    return Question("7", [{"role": "user", "content": content}], gold, "")


def task(name, asked):
    return LoadedTask(name, [asked], TASKS[name].answer, 32)


@pytest.mark.parametrize(
    ("name", "kind", "texts"),
    [
        ("piqa", "solution", ["Boil it.", "Freeze it: Solution1 is no good."]),
        ("hellaswag", "ending", ["falls.", "sings. ending1: no", "is\n\nlate.", "eats."]),
        ("winogrande", "option", ["cup", "box"]),
        ("arc_easy", "answer", ["iron", "water", "Answer format: x"]),
    ],
)
def test_what_a_question_lists(name, kind, texts):
    asked = question(instruction(kind, "do: Answer2: x", texts), f"{kind}2")
    found = options_of(task(name, asked), asked)
    assert found == [
        Option(f"{kind}{number}", text, f"the correct answer is {kind}{number}")
        for number, text in enumerate(texts, start=1)
    ]


def test_true_and_false():
    asked = question("Is it so?\n\nAnswer format: true/false", "false")
    assert [option.text for option in options_of(task("boolq", asked), asked)] == ["true", "false"]


@pytest.mark.parametrize(
    "content",
    [
        "Which one?",
        "Which one?\n\nSolution1: a\n\nSolution2: b",
        "Which one?\n\nSolution1: a\n\nAnswer format: solution1/solution2",
        "Which one?\n\nSolution1: a\n\nSolution2: \n\nAnswer format: solution1/solution2",
        "Which one?\n\nSolution1: a\n\nAnswer format: solution1",
    ],
)
def test_a_question_without_its_options(content):
    asked = question(content, "solution2")
    with pytest.raises(EvaluationError, match=r"question of piqa lists its options as Solution1: …, .*question 7 has"):
        options_of(task("piqa", asked), asked)


@pytest.mark.parametrize("folder", folders("answers", "eval_sample"), ids=lambda path: path.name)
@pytest.mark.parametrize("name", SETS)
def test_every_question_of_the_samples(folder, name):
    loaded = load(name, folder)
    for asked in loaded.questions:
        found = options_of(loaded, asked)
        assert asked.reference in [option.answer for option in found]
        assert all(option.text in asked.prompt[0]["content"] for option in found)
        assert {loaded.answer.extract(option.answer) for option in found} == {option.word for option in found}
