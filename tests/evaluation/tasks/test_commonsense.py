import json
import re

import pytest

from expert_condenser.errors import DataError
from expert_condenser.evaluation.tasks import TASKS, load
from tests.pairs import load_rows
from tests.samples import folders

ROOTS = dict(zip(("samples", "widened"), folders("eval_sample", "eval_sample"), strict=False))
"""Files made for the tests, and the real ones in the same formats where they are at hand."""

FILES = {
    "boolq": "boolq",
    "piqa": "piqa",
    "siqa": "social_i_qa",
    "winogrande": "winogrande",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
}
PIQA = {"goal": "Dry a cup.", "sol1": "Use a towel.", "sol2": "Use water.", "label": 0}
SIQA = {"context": "Ann ran.", "question": "Why?", "answerA": "fun", "answerB": "fear", "answerC": "rain", "label": "3"}
HELLASWAG = {
    "ind": 24,
    "activity_label": "Roof work",
    "ctx": "A man sits on a roof. he",
    "endings": ["falls.", "sings.", "starts.", "flies."],
    "label": "3",
}
WINOGRANDE = {"sentence": "Ann likes Eve as _ is kind.", "option1": "Ann", "option2": "Eve", "answer": "2"}
ARC = {
    "id": "M_1",
    "question": "What is wet?",
    "choices": {"text": ["sand", "rain", "air"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
OPENBOOKQA = {"question_stem": "Rain is", "choices": ARC["choices"], "answerKey": "A"}
BOOLQ = {"question": "is rain wet", "passage": "Rain is water.", "answer": True}
WET = "Answer1: sand Answer2: rain Answer3: air\n\nAnswer format: answer1/answer2/answer3"
TRUE_FALSE = (
    "Please answer the following question with true or false, question: is rain wet?\n\nAnswer format: true/false"
)
ORIGINAL = [
    ("boolq", BOOLQ, TRUE_FALSE, "true"),
    ("boolq", BOOLQ | {"answer": False, "question": "is rain wet?"}, TRUE_FALSE, "false"),
    (
        "piqa",
        PIQA,
        "Please choose the correct solution to the question: Dry a cup.\n\nSolution1: Use a towel.\n\n"
        "Solution2: Use water.\n\nAnswer format: solution1/solution2",
        "solution1",
    ),
    (
        "siqa",
        SIQA,
        "Please choose the correct answer to the question: Ann ran. Why?\n\n"
        "Answer1: fun Answer2: fear Answer3: rain\n\nAnswer format: answer1/answer2/answer3",
        "answer3",
    ),
    (
        "hellaswag",
        HELLASWAG,
        "Please choose the correct ending to complete the given sentence: Roof work: A man sits on a roof. he\n\n"
        "Ending1: falls. Ending2: sings. Ending3: starts. Ending4: flies.\n\n"
        "Answer format: ending1/ending2/ending3/ending4",
        "ending4",
    ),
    (
        "winogrande",
        WINOGRANDE,
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "Ann likes Eve as _ is kind.\n\nOption1: Ann Option2: Eve Answer format: option1/option2",
        "option2",
    ),
    ("arc_easy", ARC, f"Please choose the correct answer to the question: What is wet?\n\n{WET}", "answer2"),
    (
        "arc_challenge",
        ARC | {"choices": {"text": ["sand", "rain", "air"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        f"Please choose the correct answer to the question: What is wet?\n\n{WET}",
        "answer3",
    ),
    ("openbookqa", OPENBOOKQA, f"Please choose the correct answer to the question: Rain is\n\n{WET}", "answer1"),
]


def one(tmp_path, name, row):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row]))
    (question,) = load(name, path).questions
    return question


@pytest.mark.parametrize(("name", "row", "prompt", "gold"), ORIGINAL)
def test_original_rows(tmp_path, name, row, prompt, gold):
    question = one(tmp_path, name, row)
    assert question.prompt == [{"role": "user", "content": prompt}]
    assert (question.gold, question.reference) == (gold, f"the correct answer is {gold}")
    adapted = {"instruction": prompt, "input": "", "output": f"the correct answer is {gold}", "answer": gold}
    assert one(tmp_path, name, adapted) == question
    assert one(tmp_path, name, {key: adapted[key] for key in ("instruction", "answer")}) == question
    assert TASKS[name].answer.extract(question.reference) == gold
    assert TASKS[name].answer.extract(prompt) is None


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("boolq", BOOLQ | {"answer": None}, "every row needs an answer, .* name a split that has answers"),
        ("boolq", BOOLQ | {"answer": "maybe"}, "must be true or false, but it is 'maybe'"),
        ("piqa", PIQA | {"label": -1}, "'label' must be a number from 0 to 1, but it is '-1'; .* has answers"),
        ("piqa", PIQA | {"label": 2}, "'label' must be a number from 0 to 1, but it is '2'"),
        ("siqa", SIQA | {"label": "0"}, "'label' must be a number from 1 to 3, but it is '0'"),
        ("siqa", SIQA | {"answerB": ""}, "every row needs a value in 'answerB'"),
        ("hellaswag", HELLASWAG | {"label": ""}, "'label' must be a number from 0 to 3, but it is ''"),
        ("hellaswag", HELLASWAG | {"endings": "falls."}, "'endings' must be a list of 2 to 10 texts"),
        ("winogrande", WINOGRANDE | {"answer": ""}, "'answer' must be a number from 1 to 2, but it is ''"),
        ("arc_easy", ARC | {"answerKey": "D"}, "'answerKey' must be one of A, B, C, but it is 'D'"),
        ("arc_easy", ARC | {"choices": ["sand"]}, "'text' must be a list of 2 to 10 texts"),
        (
            "openbookqa",
            {"instruction": "a", "answer": "solution1"},
            "must be answer1, answer2, …, but it is 'solution1'",
        ),
    ],
)
def test_bad_rows(tmp_path, name, row, message):
    with pytest.raises(DataError, match=rf"rows\.json, row 1: .*{message}"):
        one(tmp_path, name, row)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("root", ROOTS)
def test_prompts_and_references_are_those_of_training(root, name):
    sample = ROOTS[root]
    questions = load(name, sample).questions
    trained = load_rows(str(sample / f"{FILES[name]}.json"))
    assert len(questions) == {"samples": 3, "widened": 120}[root]
    assert [question.prompt for question in questions] == list(trained["prompt"])
    assert [question.reference for question in questions] == [turns[0]["content"] for turns in trained["completion"]]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("root", ROOTS)
def test_original_rows_of_the_sample_are_worded_as_there(tmp_path, root, name):
    rows = json.loads((ROOTS[root] / f"{FILES[name]}.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps([original(name, row) for row in rows]))
    questions = load(name, tmp_path / "rows.json").questions
    assert [question.prompt[0]["content"] for question in questions] == [row["instruction"] for row in rows]
    assert [question.gold for question in questions] == [row["answer"] for row in rows]


def original(name, row):
    """A row of the sample in the format that the set was published in."""
    asked, _, _ = row["instruction"].rpartition("Answer format: ")
    question, *options = re.split(
        r"(?:\n\n| )(?:Solution|Option|Answer)\d: ", asked.rstrip(" ") if name != "piqa" else asked
    )
    texts = [option.removesuffix("\n\n") for option in options]
    question = question.partition(": ")[2]
    number = int(re.sub(r"\D", "", row["answer"]) or 0)
    if name == "boolq":
        return {"question": question.removesuffix("?\n\n"), "passage": "", "answer": row["answer"] == "true"}
    if name == "piqa":
        return {"goal": question, "sol1": texts[0], "sol2": texts[1], "label": number - 1}
    if name == "winogrande":
        return {"sentence": question, "option1": texts[0], "option2": texts[1], "answer": str(number)}
    if name == "siqa":
        context, _, last = question.rpartition(" ")
        answers = dict(zip(("answerA", "answerB", "answerC"), texts, strict=True))
        return {"context": context, "question": last, "label": str(number), **answers}
    labels = ["A", "B", "C", "D"][: len(texts)]
    column = "question_stem" if name == "openbookqa" else "question"
    return {column: question, "choices": {"text": texts, "label": labels}, "answerKey": labels[number - 1]}
