import pytest

from expert_condenser.evaluation.answers import LATEX
from expert_condenser.evaluation.answers.latex import same

EXTRACTED = [
    ("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
    ("\\boxed{\\dfrac34}", "\\frac{3}{4}"),
    ("so $\\boxed{\\left[ -2, 7 \\right]}$.", "[-2,7]"),
    ("\\boxed{1} and then \\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
    ("<think>\\boxed{1}</think>\\boxed{2}", "2"),
    ("#### 5", "5"),
    ("The answer is $x + 1$.", "x+1"),
    ("The final answer is\n\\[\n\\sqrt3\n\\]", "\\sqrt{3}"),
    ("We get $y = 2x$.", "2x"),
    ("There are 12 of them.", "12"),
    ("\\boxed{\\text{Evelyn}}", "Evelyn"),
    ("There are **12 pens** in 4 boxes.", "12"),
    ("So $\\boxed{\u221a2}$", "\\sqrt{2}"),
    ("", None),
    ("I cannot say.", None),
    ("\\boxed{5\\%}", "5\\%"),
    ("\\boxed{\\%}", None),
]
EQUAL = [
    ("\\frac{3}{4}", "\\dfrac{3}{4}"),
    ("\\frac34", "\\frac{3}{4}"),
    ("3/4", "\\frac{3}{4}"),
    ("0.75", "\\frac{3}{4}"),
    (".5", "0.5"),
    ("11\\sqrt2", "11\\sqrt{2}"),
    ("x=5", "5"),
    ("f(x)=x^2", "x^2"),
    ("5\\text{ cm}", "5"),
    ("5 \\text{ cm}^2", "5"),
    ("\\text{Evelyn}", "Evelyn"),
    ("\\text{(C)}", "C"),
    ("90^\\circ", "90"),
    ("90^{\\circ}", "90 degrees"),
    ("50\\%", "50"),
    ("\\$18.90", "18.90"),
    ("10,080", "10080"),
    ("1{,}000", "1000"),
    ("\\left(3, \\frac{\\pi}{2}\\right)", "(3,\\frac{\\pi}{2})"),
    ("(3, 0.5)", "(3,\\frac{1}{2})"),
    ("[-2, 7]", "[-2,7]"),
    ("1, -2", "1,-2"),
    ("\\{1, 2\\}", "\\{1,2\\}"),
    ("6 - 5i", "6-5i"),
    ("\u22125", "-5"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("2 \\cdot 3", "2\\times3"),
    ("5.", "5"),
    ("-\\frac{1}{2}", "-0.5"),
    ("x^{2}", "x^2"),
    ("4210_{5}", "4210_5"),
    ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}2"),
    ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt3}2"),
    ("\\frac{2\\sqrt{\\frac{1}{2}}}{3}", "\\frac{2\\sqrt{\\frac12}}3"),
    ("\u221a2", "\\sqrt{2}"),
    ("3\u221a13", "3\\sqrt{13}"),
    ("\u221a(x+1)", "\\sqrt{x+1}"),
    ("3\u221a{13}", "3\\sqrt{13}"),
    ("sqrt(13)", "\\sqrt{13}"),
    ("x=1 \\text{ or } x=2", "1,2"),
    ("x = 1,\\text{ and }x = 2", "1,2"),
    ("x=-1 or x=2", "-1,2"),
    ("x=1, x=2, x=3", "1,2,3"),
]
DIFFERENT = [
    ("\u221a2", "\\sqrt{3}"),
    ("3\u221a13", "3\\sqrt{1}3"),
    ("x=1 \\text{ or } x=2", "1,3"),
    ("x=1 \\text{ or } x=2", "(1,2)"),
    ("\\text{Tom or Ann}", "Tom,Ann"),
    ("(1,2)", "(2,1)"),
    ("1,-2", "-2,1"),
    ("[1,2]", "(1,2)"),
    ("(1,2]", "[1,2)"),
    ("(1,2)", "(1,2,3)"),
    ("5", "-5"),
    ("5", "5x"),
    ("2\\pi", "2"),
    ("\\sqrt{2}", "\\sqrt{3}"),
    ("\\frac{3}{4}", "\\frac{4}{3}"),
    ("x+1", "x+2"),
    ("1+x", "x+1"),
    ("Evelyn", "Evan"),
    ("11\\sqrt{2}", "11"),
    ("1,000", "1,001"),
    ("C", "D"),
    ("x^{2}", "x^3"),
    ("x^{2}", "x2"),
    ("x^{10}", "x^10"),
    ("4210_{5}", "4210_6"),
    ("4210_5", "4210"),
    ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}4"),
    ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{2}}3"),
]


@pytest.mark.parametrize(("text", "answer"), EXTRACTED)
def test_the_stated_expression(text, answer):
    assert LATEX.extract(text) == answer


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_the_same_but_for_layout(one, other):
    assert same(one, other)
    assert same(other, one)
    assert LATEX.equal(one, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_by_layout(one, other):
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize("answer", sorted({text for pair in EQUAL + DIFFERENT for text in pair}))
def test_every_expression_equals_itself_in_a_box(answer):
    assert LATEX.equal(answer, answer)
    assert LATEX.equal(LATEX.extract(f"So $\\boxed{{{answer}}}$."), answer)
    assert LATEX.read_gold(LATEX.read_gold(answer)) == LATEX.read_gold(answer)


def test_gold_answers():
    assert [LATEX.read_gold(gold) for gold in (" ", "%", "5 \\%", "\\dfrac34")] == [None, None, "5\\%", "\\frac{3}{4}"]
