from pathlib import Path

import pytest

from expert_condenser.evaluation.answers import LETTER
from tests.samples import stated_answers

STATED = stated_answers({"aqua": "AQuA"}, Path(__file__).parent / "stated.json")

NONE = [
    "",
    "A train leaves at noon.",
    "I think that it is a car.",
    "A) 10\nB) 12\nC) 15",
    "Answer Choices: (A) 10 (B) 12 (C) 15",
    "Answer: (A) 10 (B) 12 (C) 15",
    "The options are (A) 5 and (B) 6.",
    "The answer is A or B.",
    "The answer is either large or small.",
    "The answer is (A) and (C).",
    "The answer is not (B).",
    "The answer is a train.",
    "The answer is A train that leaves at noon.",
    "The answer is 62 m.",
    "The answer is E = mc^2.",
    "The answer is vitamin C.",
    "Option A is wrong, and option B is wrong.",
    "Option A is wrong.",
    "Let x be the amount of money Arjun has.",
    "Because of Bob's age, Dave is older.",
    "\\boxed{12}",
    "The answer is F.",
    "B vitamins are many.",
    "A: She has 5 pens.",
    "Compare (A) with (B).",
    "Train A is right on time. So 5.",
    "A is right on time.",
    "Bus B is the best.",
    "Vitamin C is the answer",
    "A: 5\nB: 6\nThe answer is 6",
    "The answer is not B, it is cold.",
    "The correct choice would be cold.",
    "Answered: C",
    "It's A train.",
    "It's C or D.",
    "It isn't C.",
    "It is B vitamins that help.",
    "leaving C and D",
    "A bus leaves B at noon.",
    "The answer - a riddle - is hard.",
]
STATES = [
    ("(D)", "D"),
    ("D", "D"),
    ("D.", "D"),
    ("d", "D"),
    ("(d)", "D"),
    ("**D**", "D"),
    ("D) 12", "D"),
    ("(D) 12 km", "D"),
    ("A) 12", "A"),
    ("\\boxed{D}", "D"),
    ("\\boxed{\\text{(D)}}", "D"),
    ("\\boxed{\\textbf{D}}", "D"),
    ("\\boxed{D) 12}", "D"),
    ("<think>The answer is (A).</think>\\boxed{B}", "B"),
    ("<think>The answer is (A).</think>B", "B"),
    ("<think>The answer is (A).</think>", "A"),
    ("12 + 3 = 15\n#### C", "C"),
    ("The answer is (D).", "D"),
    ("which is 42 m.The answer is (D).", "D"),
    ("so the answer is +15.The answer is (D).", "D"),
    ("The answer is D.", "D"),
    ("The answer is A.", "A"),
    ("The answer is A because 3 + 4 = 7.", "A"),
    ("The answer is (b).", "B"),
    ("The answer is b.", "B"),
    ("Answer: D", "D"),
    ("Answer: d", "D"),
    ("Answer:\n\n(D) 12", "D"),
    ("**Answer: D**", "D"),
    ("The answer is: **D) 12**", "D"),
    ("### Answer\nD", "D"),
    ("The answer is option D.", "D"),
    ("The correct answer is therefore choice (D).", "D"),
    ("The correct option is D.", "D"),
    ("Therefore, option D is right.", "D"),
    ("D is the correct answer.", "D"),
    ("(D) is correct, since 3 < 4.", "D"),
    ("I choose D.", "D"),
    ("We pick option (C), the largest.", "C"),
    ("This leaves option D", "D"),
    ("Option A is wrong. This leaves option D.", "D"),
    ("A) 10\nB) 12\nC) 15\n\nB", "B"),
    ("(A) 10 (B) 12 (C) 15. The answer is (C).", "C"),
    ("So it must be (D).", "D"),
    ("A train leaves at noon, so (B).", "B"),
    ("The answer is (D), not (B).", "D"),
    ("The answer is (A), since (B) and (C) are too large.", "A"),
    ("The answer is (A) 60 m.", "A"),
    ("The answer is $D$.", "D"),
    ("The answer is [D].", "D"),
    ("B is the best.", "B"),
    ("Option B is the best.", "B"),
    ("So B is right.", "B"),
    ("C is the answer", "C"),
    ("Since 3 < 4, D is correct.", "D"),
    ("B: 6\nThe answer is 6", "B"),
    ("A: 5 + 1 = 6.\nB) 6", "B"),
    ("The answer is not B, it is C", "C"),
    ("The answer isn't (B), it's (C).", "C"),
    ("The answer is not B but C.", "C"),
    ("The answer is not B. It is C.", "C"),
    ("The correct choice would be C", "C"),
    ("Ans: C", "C"),
    ("It's C", "C"),
    ("So it is (C), since 3 < 4.", "C"),
    ("Not B; it must be C.", "C"),
    ("Answer - C", "C"),
    ("Answer \u2014 C", "C"),
    ("The answer - (C).", "C"),
    ("A and B are too small, leaving C.", "C"),
    ("That leaves only option C.", "C"),
    ("__C__", "C"),
    ("The larger one: _C_", None),
    ("_C_", "C"),
    ("A bus leaves at B. Guess: C\nProbability: 0.8", "C"),
]
LATER = [
    ("The answer is (A). Wait, that is wrong; the answer is (C).", "C"),
    ("The answer is A. Actually, it is B.", "B"),
    ("The answer is (A). No: D is correct.", "D"),
    ("The answer is (D). Option B forgets the rent.", "D"),
    ("\\boxed{A} or rather \\boxed{B}", "B"),
    ("The answer is (A).\n\nQ: How old is Tom?\nA: The answer is (B).", "A"),
    ("The answer is (A).\nQuestion: how old? The answer is (B).", "A"),
    ("Question: how old? (A) 5 (B) 6\nAnswer: B", "B"),
]


@pytest.mark.parametrize("text", NONE)
def test_no_letter_is_stated(text):
    assert LETTER.extract(text) is None


@pytest.mark.parametrize(("text", "letter"), STATES + LATER)
def test_the_stated_letter(text, letter):
    assert LETTER.extract(text) == letter


@pytest.mark.parametrize("letter", "ABCDE")
def test_letters_are_compared_in_either_case(letter):
    assert LETTER.equal(letter, letter.lower())
    assert LETTER.equal(letter.lower(), letter)
    assert not any(LETTER.equal(letter, other) for other in "ABCDE" if other != letter)


def test_gold_letters():
    assert [LETTER.read_gold(gold) for gold in ("A", " b ", "(C)", "d.")] == ["A", "B", "C", "D"]
    assert [LETTER.read_gold(gold) for gold in ("", "F", "AB", "1", "A) 12")] == [None] * 5


@pytest.mark.parametrize(("output", "states"), STATED.values(), ids=STATED)
def test_what_the_rationales_state(output, states):
    extracted = LETTER.extract(output)
    assert extracted == states
    assert extracted is None or not LETTER.equal(extracted, "ABCDEA"["ABCDE".index(extracted) + 1])
