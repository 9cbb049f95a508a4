"""Scale words join the number in front of them, and nothing else."""

import pytest

from expert_condenser.evaluation.answers import LATEX, NUMBER
from expert_condenser.evaluation.answers.scale import scaled

JOINED = [
    ("1.5 million", "1500000"),
    ("1.5 Million", "1500000"),
    ("2.5 thousand", "2500"),
    ("3 billion", "3000000000"),
    ("0.5 trillion", "500000000000"),
    ("12 hundred", "1200"),
    ("2 hundred thousand", "200000"),
    ("5 millions", "5000000"),
    ("1.5-million", "1500000"),
    (".25 million", "250000"),
    ("1,234 thousand", "1234000"),
    ("1{,}234.5 thousand", "1234500"),
    ("1.2345 thousand", "1234.5"),
    ("0.00015 thousand", "0.15"),
    ("3/4 million", "750000"),
    ("1 1/2 million", "1500000"),
    ("1/3 million", "1000000/3"),
    ("1 million 500 thousand", "1500000"),
    ("2 billion 3 million 4 hundred", "2003000400"),
    ("1.5~million", "1500000"),
    ("1.5\\,\\text{million}", "1500000\\text{}"),
    ("1.5\\text{ million dollars}", "1500000\\text{ dollars}"),
    ("between 1 million and 2 million", "between 1000000 and 2000000"),
    ("3 thousand 2 million", "3000 2000000"),
    ("1 million\n500 thousand", "1000000\n500000"),
    ("5\n1/2 million", "5\n500000"),
]
LEFT = [
    "3 million-dollar houses",
    "5 thousandths",
    "5. Million",
    "5 apples, a million pears",
    "1,2 million",
    "5\nmillion",
    "\n1/2\nmillion",
    "x2 million",
    "million 5",
    "a million",
    "5 millionaires",
    "hundred",
    "1/0 million",
    "9" * 5000 + " million",
]


@pytest.mark.parametrize(("text", "written_out"), JOINED)
def test_a_number_is_written_out(text, written_out):
    assert scaled(text) == written_out


@pytest.mark.parametrize("text", LEFT)
def test_unrelated_words_are_not_joined(text):
    assert scaled(text) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 1.5 million.", "1500000"),
        ("The answer is $1.2 million.", "1200000"),
        ("It sold for $1.2 million in all.", "1200000"),
        ("The answer is -1.5 million.", "-1500000"),
        ("The answer is 2½ million.", "2500000"),
        ("\\boxed{1.5 \\text{ million}}", "1500000"),
        ("\\boxed{\\$1.2\\text{ million}}", "1200000"),
        ("\\boxed{\\frac{1}{2} \\text{ million}}", "500000"),
        ("#### 3 billion", "3000000000"),
        ("The answer is 3 million-dollar houses.", "3"),
        ("The answer is 2-3 million.", None),
        ("The answer is 1 or 2 million.", None),
    ],
)
def test_numbers_with_a_scale_word(text, answer):
    assert NUMBER.extract(text) == answer


def test_words_without_end_take_no_time():
    assert scaled("1" + " million" * 20_000).startswith("1000000000000000000 million")
    assert NUMBER.extract("The answer is 1/0 million.") is None


def test_golds_and_expressions_are_read_alike():
    assert NUMBER.read_gold("1.5 million") == "1500000"
    assert LATEX.extract("\\boxed{1.5\\text{ million}}") == "1500000"
    assert LATEX.equal("1.5\\text{ million}", "1{,}500{,}000")
    assert not LATEX.equal("1.5\\text{ million}", "1.5"), "control: no unit that is dropped"
