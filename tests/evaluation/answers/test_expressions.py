r"""An expression is not one number, in whichever place it is stated; units make none of a number."""

import pytest

from expert_condenser.evaluation.answers import LATEX, NUMBER
from expert_condenser.evaluation.answers.expressions import is_expression, without_text

EXPRESSIONS = [
    *(
        r"\sqrt{576}",
        "3x",
        "24 x",
        "x^2+5",
        r"0.\overline{3}",
        "24!",
        r"3\pi",
        "x+5",
        "5-x",
        "2(3)",
        r"\log_2 8",
        "24i",
    ),
    *(
        r"\frac{x}{2}",
        r"\left(3x\right)",
        r"5 \pmod{7}",
        r"2\sqrt{3}",
        r"3x \text{ km}",
        "24 = 4!",
        "10^3",
        "x\u00b2+5",
    ),
    *("sqrt(576)", r"\binom{24}{2}", "3ab", "x/24", "24/n", r"\pm 24", "3 x 8"),
]
NUMBERS = [
    *(
        r"90^\circ",
        r"24 \text{ pens}",
        "3 m",
        "24km",
        "24 g",
        "24 cm^2",
        r"24\text{ cm}^2",
        "24 m/s^2",
        "n=24",
        "x = 24",
    ),
    *(r"\sqrt{576}=24", "2x=48 \\implies x=24", r"\approx 24", r"24 (4 \times 6)", r"2 \times 10^3", r"\frac{3}{4}"),
    *(r"24 \text{ a day}", "24 a day", r"24^\circ C", r"24 \mathrm{~cm}", r"5\frac{1}{2}", "24 (pens)"),
]


@pytest.mark.parametrize("content", EXPRESSIONS)
@pytest.mark.parametrize("text", ["\\boxed{{{}}}", "So $\\boxed{{{}}}$, that is 24.", "<answer>{}</answer> 24"])
def test_an_expression_is_not_one_number(content, text):
    assert NUMBER.extract(text.format(content)) is None
    assert NUMBER.extract(text.format("24")) == "24"


@pytest.mark.parametrize("content", NUMBERS)
def test_a_number_with_what_belongs_to_it_is_one(content):
    assert NUMBER.extract(f"\\boxed{{{content}}} 7") not in (None, "7")


@pytest.mark.parametrize("text", ["#### {}", "The answer is ${}$.", "Final answer: {}"])
def test_nor_is_it_where_it_is_stated(text):
    for expression in ("\\sqrt{576}", "3x", "x+5"):
        assert NUMBER.extract(text.format(expression)) is None
    assert NUMBER.extract(text.format("24 m")) == "24"


def test_an_exclamation_mark_is_a_factorial_in_a_box_alone():
    assert NUMBER.extract("\\boxed{24!}") is None
    assert NUMBER.extract("\\boxed{24}!") == NUMBER.extract("#### 24!") == NUMBER.extract("The answer is 24!") == "24"


def test_a_sentence_in_a_tag_is_none():
    assert NUMBER.extract("<answer>Since 3x + 5 is 77, 24</answer>") == "24"
    assert NUMBER.extract("<answer>3x + 5</answer>") is None


def test_expressions_still_answer_where_they_are_asked_for():
    assert LATEX.extract("\\boxed{3x}") == "3x"
    assert is_expression("3x")
    assert not is_expression("x")
    assert without_text("3 \\text{ cm}^{2} + 4 \\mathrm{m}^2") == "3   + 4  "
