import json
import re

import pytest

from expert_condenser.errors import DataError
from expert_condenser.evaluation.tasks import TASKS, load
from tests.pairs import load_rows
from tests.samples import folders

ROOTS = dict(zip(("samples", "widened"), folders("eval_sample", "eval_sample"), strict=False))
"""Files made for the tests, and the real ones in the same formats where they are at hand."""

SIZES = {"samples": (3, 2), "widened": (100, 22)}
"""The fewest questions of a set, and how many questions the two files of GSM8K share."""
FILES = {
    "gsm8k": "gsm8k",
    "svamp": "SVAMP",
    "mawps": "mawps",
    "aqua": "AQuA",
    "addsub": "AddSub",
    "singleeq": "SingleEq",
    "multiarith": "MultiArith",
    "mathqa": "mathqa",
}
OPTIONS = ["A)21", "B) 21.5", "C)D/(M-3)", "D)-1", "E)None"]
CHOICES = "Answer Choices: (A) 21 (B)  21.5 (C) D/ (M-3)  (D) -1 (E) None"
ORIGINAL = [
    (
        "gsm8k",
        {"question": "How many?", "answer": "Half is 48/2 = <<48/2=24>>24.\n#### 1,024"},
        "How many?",
        "1024",
        "<think>Half is 48/2 = 24.</think>\\boxed{1024}",
    ),
    (
        "svamp",
        {"Body": "Tom has 8 pens", "Question": "How many?", "Answer": 8.0, "Equation": "8.0"},
        "Tom has 8 pens. How many?",
        "8",
        "<think>8.0</think>\\boxed{8}",
    ),
    (
        "svamp",
        {"Body": "Tom has 8 pens. ", "Question": " How many?", "Answer": 8},
        "Tom has 8 pens. How many?",
        "8",
        "",
    ),
    (
        "mawps",
        {"original_text": "How many ?", "equation": "X=(22.0-14.0)", "ans": 8.0},
        "How many ?",
        "8",
        "<think>X=(22.0-14.0)</think>\\boxed{8}",
    ),
    ("mawps", {"id": "x", "question": "How many ?", "result": "8.5"}, "How many ?", "8.5", ""),
    ("addsub", {"sQuestion": " How many ? ", "lEquations": ["X=8"], "lSolutions": [8.0]}, " How many ? ", "8", ""),
    ("singleeq", {"sQuestion": "How many?", "lSolutions": [8.5]}, "How many?", "8.5", ""),
    ("multiarith", {"question": " How many? ", "final_ans": "8"}, " How many? ", "8", ""),
    (
        "aqua",
        {"question": "How many? ", "options": OPTIONS, "rationale": "It is 21.5.\nB", "correct": "B"},
        f"How many? {CHOICES}",
        "B",
        "<think>It is 21.5.\nB</think>\\boxed{B}",
    ),
    (
        "mathqa",
        {"Problem": "how many ?", "options": "a ) 38 , b ) none of these", "correct": "b", "Rationale": "none"},
        "how many ? The options: A ) 38 , B ) nonE oF thEsE",
        "B",
        "<think>none</think>\\boxed{B}",
    ),
    (
        "math_500",
        {"problem": "Find $x$.", "solution": "So $x=\\boxed{\\frac34}$.", "answer": "\\frac34"},
        "Find $x$.",
        "\\frac{3}{4}",
        "<think>So $x=\\boxed{\\frac34}$.</think>\\boxed{\\frac34}",
    ),
]


def one(tmp_path, name, row):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row]))
    (question,) = load(name, path).questions
    return question


@pytest.mark.parametrize(("name", "row", "prompt", "gold", "reference"), ORIGINAL)
def test_original_rows(tmp_path, name, row, prompt, gold, reference):
    question = one(tmp_path, name, row)
    assert question.prompt == [{"role": "user", "content": prompt}]
    assert (question.gold, question.reference) == (gold, reference)
    assert TASKS[name].answer.equal(TASKS[name].answer.extract(reference or f"\\boxed{{{gold}}}"), gold)


@pytest.mark.parametrize("name", sorted({name for name, *_ in ORIGINAL}))
def test_the_same_question_in_the_llm_adapters_format_has_the_same_prompt(tmp_path, name):
    row, prompt, gold = next((row, prompt, gold) for known, row, prompt, gold, _ in ORIGINAL if known == name)
    alpaca = {"instruction": prompt, "input": "", "output": "So.", "answer": gold}
    assert one(tmp_path, name, alpaca).prompt == one(tmp_path, name, row).prompt
    assert one(tmp_path, name, alpaca | {"input": "Hint."}).prompt != one(tmp_path, name, row).prompt


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("aqua", {"question": "a", "options": ["21", "22"], "correct": "A"}, "an option must begin with its letter"),
        ("aqua", {"question": "a", "options": "A)21", "correct": "A"}, "'options' must be a list of 2 to 10 texts"),
        ("aqua", {"question": "a", "options": OPTIONS, "correct": "F"}, "must be a letter from A to E, but it is 'F'"),
        ("mathqa", {"Problem": "a", "options": "a ) 1", "correct": ""}, "every row needs a value in 'correct'"),
        ("svamp", {"Body": "", "Question": "a", "Answer": 1}, "every row needs a value in 'Body'"),
        ("addsub", {"sQuestion": "a", "lSolutions": [1.0, 2.0]}, r"must be a number, but it is '\[1.0, 2.0\]'"),
        ("math_500", {"problem": "a", "answer": ""}, "every row needs an answer"),
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
    assert [question.prompt for question in questions] == list(trained["prompt"])
    assert [question.reference for question in questions] == [turns[0]["content"] for turns in trained["completion"]]
    assert len({question.prompt[0]["content"] for question in questions}) >= SIZES[root][0]


@pytest.mark.parametrize("root", ROOTS)
def test_gsm8k_in_its_own_format_is_that_of_training_too(root):
    path = ROOTS[root] / "gsm8k_main.jsonl"
    questions, trained = load("gsm8k", path).questions, load_rows(str(path))
    assert [question.prompt for question in questions] == list(trained["prompt"])
    assert [question.reference for question in questions] == [turns[0]["content"] for turns in trained["completion"]]
    adapted = {question.prompt[0]["content"]: question.gold for question in load("gsm8k", path.parent).questions}
    shared = [question for question in questions if question.prompt[0]["content"] in adapted]
    assert len(shared) == SIZES[root][1]
    number = TASKS["gsm8k"].answer
    assert all(number.equal(question.gold, adapted[question.prompt[0]["content"]]) for question in shared)


@pytest.mark.parametrize("root", ROOTS)
def test_every_reference_of_gsm8k_is_right(root):
    loaded = load("gsm8k", ROOTS[root] / "gsm8k_main.jsonl")
    assert len(loaded.questions) > SIZES[root][0]
    for question in loaded.questions:
        assert loaded.answer.extract(question.reference) == question.gold


@pytest.mark.parametrize("name", ["aqua", "mathqa", "svamp"])
@pytest.mark.parametrize("root", ROOTS)
def test_original_rows_of_the_sample_are_worded_as_there(tmp_path, root, name):
    rows = json.loads((ROOTS[root] / f"{FILES[name]}.json").read_text())
    original = [ORIGINAL_ROW[name](row["instruction"], row["answer"]) for row in rows]
    (tmp_path / "rows.json").write_text(json.dumps(original))
    prompts = [question.prompt[0]["content"] for question in load(name, tmp_path / "rows.json").questions]
    assert prompts == [row["instruction"] for row in rows]


def aqua_row(instruction, answer):
    question, _, choices = instruction.partition(" Answer Choices: ")
    options = re.split(r" ?(?=\([A-E]\) )", choices)
    plain = [option.removeprefix("(").replace(" (", "(").replace(") ", ")") for option in options if option]
    return {"question": question, "options": plain, "correct": answer}


def mathqa_row(instruction, answer):
    problem, _, options = instruction.partition(" The options: ")
    return {"Problem": problem, "options": options.lower(), "correct": answer.lower()}


def svamp_row(instruction, answer):
    body, _, question = instruction.rpartition(". ")
    return {"Body": body, "Question": question, "Answer": float(answer)}


ORIGINAL_ROW = {"aqua": aqua_row, "mathqa": mathqa_row, "svamp": svamp_row}
