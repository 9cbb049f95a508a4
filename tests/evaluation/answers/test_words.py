import json

import pytest

from expert_condenser.evaluation.answers import ANSWER, ENDING, OPTION, SOLUTION, TRUTH
from tests.samples import folders

SETS = {
    "piqa": SOLUTION,
    "winogrande": OPTION,
    "social_i_qa": ANSWER,
    "ARC-Easy": ANSWER,
    "ARC-Challenge": ANSWER,
    "openbookqa": ANSWER,
    "boolq": TRUTH,
}
in_every_folder = pytest.mark.parametrize("folder", folders("answers", "eval_sample"), ids=lambda path: path.name)

OPTIONS = [
    (SOLUTION, "the correct answer is solution1", "solution1"),
    (SOLUTION, "The correct answer is Solution 2.", "solution2"),
    (SOLUTION, "solution2", "solution2"),
    (SOLUTION, "**Solution 2**", "solution2"),
    (SOLUTION, "Solution2: Rub hard with sheets.", "solution2"),
    (SOLUTION, "\\boxed{solution2}", "solution2"),
    (SOLUTION, "\\boxed{\\text{solution2}}", "solution2"),
    (SOLUTION, "<think>solution1 looks good</think>the correct answer is solution2", "solution2"),
    (SOLUTION, "Solution1: a pan. Solution2: a pot. The correct answer is solution2", "solution2"),
    (SOLUTION, "Answer format: solution1/solution2\nsolution2", "solution2"),
    (SOLUTION, "The answer is 2.", "solution2"),
    (SOLUTION, "2", "solution2"),
    (SOLUTION, "Solution 2 is the correct one, unlike solution 1.", "solution2"),
    (SOLUTION, "solution1 is wrong, so take solution2.", "solution2"),
    (SOLUTION, "the correct answer is solution1. Wait, the correct answer is solution2.", "solution2"),
    (SOLUTION, "the correct answer is solution1. Actually, it is solution2.", "solution2"),
    (SOLUTION, "the correct answer is solution1\n\n### Instruction:\nthe correct answer is solution2", "solution1"),
    (SOLUTION, "solution1 Please choose the correct solution to the question: a. Solution2: b", None),
    (SOLUTION, "solution1.\nPlease choose the correct solution to the question: a. Solution2: b", "solution1"),
    (SOLUTION, "The correct answer is not solution1 but solution2", "solution2"),
    (SOLUTION, "Solution1 is cold. The correct answer is not solution1, but rather solution2.", "solution2"),
    (SOLUTION, "The correct answer is solution2, not solution1.", "solution2"),
    (SOLUTION, "The answer isn't cold: solution1", "solution1"),
    (ANSWER, "the correct answer is answer3", "answer3"),
    (ANSWER, "The correct answer is Answer 3: dry palms", "answer3"),
    (ANSWER, "Answer3", "answer3"),
    (ANSWER, "answer 4", "answer4"),
    (ANSWER, "Answer: answer4", "answer4"),
    (ANSWER, "Answer: 4", "answer4"),
    (ANSWER, "the correct answer is (3)", "answer3"),
    (ENDING, "ending3", "ending3"),
    (ENDING, "the correct answer is ending4 , the man stops.", "ending4"),
    (OPTION, "the correct answer is option2", "option2"),
    (OPTION, "Option 1 is better.", "option1"),
]
NO_OPTION = [
    (SOLUTION, ""),
    (SOLUTION, "solution1/solution2"),
    (SOLUTION, "Answer format: solution1/solution2"),
    (SOLUTION, "the correct answer is solution1 or solution2"),
    (SOLUTION, "Solution1: a pan.\n\nSolution2: a pot."),
    (SOLUTION, "Solution1 is warm and solution2 is cold."),
    (SOLUTION, "solution1 is wrong"),
    (SOLUTION, "The correct answer is not solution1."),
    (SOLUTION, "The answer isn't solution1"),
    (SOLUTION, "It cannot be solution1."),
    (SOLUTION, "It is neither solution1 nor solution2."),
    (SOLUTION, "the correct answer is answer2"),
    (SOLUTION, "the correct answer is 2 pans"),
    (SOLUTION, "A solution of 2 salts."),
    (SOLUTION, "The resolution1 of it."),
    (ANSWER, "answer1/answer2/answer3/answer4"),
    (ANSWER, "answer1, answer2 or answer3"),
    (ANSWER, "There are 3 answers."),
    (OPTION, "Options 1."),
]
TRUTHS = [
    ("the correct answer is true", "true"),
    ("the correct answer is false", "false"),
    ("True", "true"),
    ("FALSE.", "false"),
    ("**True**", "true"),
    ("\\boxed{true}", "true"),
    ("\\boxed{\\text{False}}", "false"),
    ("Yes", "true"),
    ("No.", "false"),
    ("Yes, a tie can end a match.", "true"),
    ("No, a tie cannot end a match.", "false"),
    ("The answer is yes.", "true"),
    ("Answer: no", "false"),
    ("The answer is not true.", "false"),
    ("The answer is not false.", "true"),
    ("The answer is untrue.", "false"),
    ("The answer is correct.", "true"),
    ("The answer is incorrect.", "false"),
    ("It is not true that a tie ends a match.", "false"),
    ("This isn't true.", "false"),
    ("That statement is false.", "false"),
    ("It is true for every match, and a true classic.", "true"),
    ("Answer format: true/false\ntrue", "true"),
    ("True or false? False.", "false"),
    ("The answer is true. Wait, the answer is false.", "false"),
    ("The answer is true. Actually, it is false.", "false"),
    ("<think>It may be true.</think>false", "false"),
    ("<think>The answer is true.</think>", "true"),
    ("true\n\nQ: is it false?\nA: false", "true"),
    ("The answer is that it is true.", "true"),
    ("The answer cannot be true", "false"),
    ("The answer can be true", "true"),
    ("The answer cannot be false.", "true"),
    ("It is never true", "false"),
    ("It is ever true", "true"),
    ("答案是：否", "false"),  # noqa: RUF001
    ("答案是：是的。", "true"),  # noqa: RUF001
    ("答案：不正确。", "false"),  # noqa: RUF001
    ("否，因为它不是。", "false"),  # noqa: RUF001
    ("答えは はい", "true"),
    ("La respuesta es no.", "false"),
    ("La respuesta es sí, claro.", "true"),
    ("Die Antwort ist: nein", "false"),
    ("La réponse est oui", "true"),
    ("Answer - no", "false"),
]
NO_TRUTH = [
    "",
    "true/false",
    "Answer format: true/false",
    "The answer is true or false.",
    "It can be true here and false there.",
    "No one knows.",
    "I do not know.",
    "yesterday",
    "It was truely odd.",
    "This is based on a true story.",
    "The answer is 5.",
    "Nobody said falsehoods.",
    "neither true nor false",
    "The answer is neither true nor false.",
    "答案是否正确",
    "Die Antwort ist jahrelang bekannt.",
]


@pytest.mark.parametrize(("kind", "text", "word"), OPTIONS)
def test_the_stated_option(kind, text, word):
    assert kind.extract(text) == word


@pytest.mark.parametrize(("kind", "text"), NO_OPTION)
def test_no_option_is_stated(kind, text):
    assert kind.extract(text) is None


@pytest.mark.parametrize(("text", "word"), TRUTHS)
def test_the_stated_truth(text, word):
    assert TRUTH.extract(text) == word


@pytest.mark.parametrize("text", NO_TRUTH)
def test_no_truth_is_stated(text):
    assert TRUTH.extract(text) is None


def test_words_are_compared_in_either_case():
    assert TRUTH.equal("true", "True")
    assert SOLUTION.equal("solution1", "Solution1")
    assert not TRUTH.equal("true", "false")
    assert not SOLUTION.equal("solution1", "solution2")
    assert not SOLUTION.equal("solution1", "solution11")


def test_gold_words():
    assert [TRUTH.read_gold(gold) for gold in ("true", " False ")] == ["true", "false"]
    assert [TRUTH.read_gold(gold) for gold in ("", "yes", "1", "answer1")] == [None] * 4
    assert [ANSWER.read_gold(gold) for gold in ("answer4", "Answer 4")] == ["answer4", "answer4"]
    assert [ANSWER.read_gold(gold) for gold in ("", "4", "solution4", "answer")] == [None] * 4


@in_every_folder
@pytest.mark.parametrize("name", SETS)
def test_every_output_of_the_commonsense_sets_states_its_answer(folder, name):
    rows = json.loads((folder / f"{name}.json").read_text())
    assert len({row["answer"] for row in rows}) > 1
    assert [SETS[name].extract(row["output"]) for row in rows] == [row["answer"] for row in rows]


@in_every_folder
def test_no_question_of_the_commonsense_sets_states_an_answer(folder):
    for name, kind in SETS.items():
        for row in json.loads((folder / f"{name}.json").read_text()):
            assert kind.extract("Consider:\n" + row["instruction"].partition(": ")[2]) is None
