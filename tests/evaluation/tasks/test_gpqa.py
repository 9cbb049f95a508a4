import json

import pytest

from expert_condenser.errors import DataError
from expert_condenser.evaluation.tasks import load
from expert_condenser.evaluation.tasks.gpqa import shuffled

ROW = {
    "Question": "Which mass is largest? ",
    "Correct Answer": "4 kg",
    "Incorrect Answer 1": "1 kg",
    "Incorrect Answer 2": "2 kg\n",
    "Incorrect Answer 3": "3 kg (or so)",
    "Explanation": "Four is most.",
}


def ask(tmp_path, *rows):
    (tmp_path / "gpqa_diamond.json").write_text(json.dumps(rows))
    return load("gpqa_diamond", tmp_path).questions


def test_a_question(tmp_path):
    (question,) = ask(tmp_path, ROW)
    choices = ["4 kg", "1 kg", "2 kg", "3 kg (or so)"]
    order = shuffled("Which mass is largest?", choices)
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", order, strict=True))
    assert question.prompt == [{"role": "user", "content": f"Which mass is largest? Answer Choices: {listed}"}]
    assert order["ABCD".index(question.gold)] == "4 kg"
    assert question.reference == f"<think>Four is most.</think>\\boxed{{{question.gold}}}"


def test_the_order_depends_on_the_texts_alone(tmp_path):
    texts = [ROW[column] for column in list(ROW)[2:5]]
    for wrong in (texts, texts[::-1]):
        (question,) = ask(tmp_path, ROW | {f"Incorrect Answer {n}": text for n, text in enumerate(wrong, start=1)})
        assert question == ask(tmp_path, ROW)[0]
    assert shuffled("a", ["x", "y", "z", "w"]) == ["w", "z", "x", "y"]


def test_the_right_choice_is_anywhere(tmp_path):
    golds = [question.gold for question in ask(tmp_path, *(ROW | {"Question": f"Question {n}"} for n in range(200)))]
    assert all(30 < golds.count(letter) < 70 for letter in "ABCD")


def test_a_row_without_a_choice(tmp_path):
    with pytest.raises(DataError, match="row 1: every row needs a value in 'Incorrect Answer 2'"):
        ask(tmp_path, ROW | {"Incorrect Answer 2": None})
