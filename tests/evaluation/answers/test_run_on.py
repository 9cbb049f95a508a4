r"""A text is cut where it invents a turn, and nowhere where it only speaks of users and questions."""

import pytest

from expert_condenser.evaluation.answers import LATEX, LETTER, NUMBER
from expert_condenser.evaluation.answers.run_on import up_to_mark, up_to_run_on

TURNS = [
    "\nuser\n",
    "\nhuman\n",
    "user\n\n",
    "assistant\n\n",
    "<|user|>",
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>user\n",
    "<|endoftext|>",
    "<|end|><|user|>\n",
    "<|end|>\n<|start|>user<|message|>",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|start_of_role|>user<|end_of_role|>",
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
    "<end_of_turn>\n<start_of_turn>user\n",
    "<turn|>\n<|turn>user\n",
    "<｜User｜>",  # noqa: RUF001
    "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "[INST] ",
    "</s>[INST] ",
    "[|user|]",
    "<extra_id_1>User\n",
    "\nHuman: ",
    "\nUser: ",
    "Human: ",
    "\n\nQ: ",
    "\nQuestion: ",
    " Question: ",
    "\n**Question 2:** ",
    "\nProblem 2: ",
    "\nNext question: ",
    "\n### Instruction\n",
    "\n### Instruction:\n",
    "\n### Human: ",
    "\n### User:\n",
    "\n## Question\n",
    "\n问题：",  # noqa: RUF001
    "\nВопрос: ",  # noqa: RUF001
    "\nPregunta: ",
    "\nFrage: ",
    "\nsystem\n",
    "\n\nsystem\n",
    "\nassistant\n",
    "\n[Question] ",
    "\n\n[Question 2]\n",
    "\nExample 2: ",
    "\n\n**Example 2:** ",
    "\n### Example 2:\n",
    "\nFollow-up: ",
    "\nFollow up: ",
    "\nQuiz: ",
    "\nExercise 3: ",
    "\nBonus: ",
    "\n例题2：",  # noqa: RUF001
    "\n练习：",  # noqa: RUF001
    "\nBeispiel 2: ",
]
SPEAKING_OF_USERS = [
    ("The user pays 3 and another user pays 21.\nSo the user pays 24", "24"),
    ("Ask the user: how much? They pay 24.", "24"),
    ("Each user\npays 3, so 24", "24"),
    ("The roles are\nadmin\nuser\nguest\nThe answer is 3.", "3"),
    ("The roles are\n- admin\n- user\n- guest\nThe answer is 3.", "3"),
    ("Posts:\nAdmin: 3\nUser: 5\nThe answer is 8.", "8"),
    ("Human beings: 24", "24"),
    ("The question: 3 or 4? So 24", "24"),
    ("Call him superuser\n\nThe answer is 24", "24"),
    ("My assistant\n\nThe answer is 24", "24"),
    ("The scores are\nQuiz: 9\nTask: 15\nThe answer is 24", "24"),
    ("Two cases.\nExample 1: 3 pens cost 6.\nExample 2: 4 pens cost 8.\nSo 24", "24"),
    ("Answer: let us try 2 cases.\nExample 1: 3.\nExample 2: 9.\nThe answer is 24", "24"),
    ("1. Example: 3 pens.\n2. Example: 4 pens.\nSo 24", "24"),
    ("By the formula.\nFollow-up: 4 more, so 24", "24"),
    ("We solve the\nsystem\nof 2 equations: 24", "24"),
    ("例1：3。\n例2：9。\n答案是24", "24"),  # noqa: RUF001
    ("This is a problem.\nProblems: 3\nThe answer is 24", "24"),
]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("kind", "said", "more", "answer"),
    [
        (NUMBER, "\\boxed{24}", "\\boxed{27}", "24"),
        (NUMBER, "The answer is 24.", "The answer is 27.", "24"),
        (NUMBER, "24", "27", "24"),
        (LATEX, "So $\\boxed{x}$", "$\\boxed{y}$", "x"),
        (LETTER, "The answer is (B).", "The answer is (C).", "B"),
    ],
    ids=["box", "statement", "number", "latex", "letter"],
)
def test_what_an_invented_turn_says_is_no_answer(turn, kind, said, more, answer):
    question = f"{turn}Add 3 pens.\n"
    assert kind.extract(f"{said}{question}{more}") == answer
    assert kind.extract(f"{said} ; Add 3 pens.\n{more}") != answer  # it is the turn that cuts


@pytest.mark.parametrize(("text", "answer"), SPEAKING_OF_USERS)
def test_a_text_may_speak_of_users(text, answer):
    assert NUMBER.extract(text) == answer
    assert text[up_to_run_on(text)] == text


def test_where_a_text_has_answered():
    for text in (
        "The answer is that she has 24 pens.",
        "**Answer:** 24",
        "3 + 21 = 24",
        "24 pens",
        "<answer>24</answer>",
    ):
        assert NUMBER.extract(f"{text}\n\nExample 2: Tom has 33") == "24"
        assert NUMBER.extract(f"Let us see.\nExample 2: Tom has 33. {text}") == "24"
    assert NUMBER.extract("Let us see, 24.\n\nExample 2: Tom has 33") == "33"


@pytest.mark.parametrize("lead", ["[INST] ", "<|assistant|>", "<|im_start|>assistant\n", "<s>", "user\nassistant\n"])
def test_what_nothing_stands_before_cuts_nothing(lead):
    assert NUMBER.extract(f"{lead}24") == "24"


def test_up_to_where():
    text = "<s>a\nUser: b<|user|>c"
    assert text[up_to_run_on(text)] == "a\n"
    assert text[up_to_mark(text)] == "a\nUser: b"
    assert text[up_to_mark("a")] == text[:1]
