r"""Equality by algebra: math-verify's, in a process of its own, and what is never equal."""

import time

import pytest

from expert_condenser.evaluation.answers import LATEX, algebra
from expert_condenser.evaluation.answers.algebra import _Worker
from tests.evaluation.answers.test_latex import DIFFERENT as BY_LAYOUT

pytest.importorskip("math_verify")

EQUAL = [
    ("1+x", "x+1"),
    ("2\\sqrt3", "\\sqrt{12}"),
    ("5\\%", "0.05"),
    ("0.5\\%", "0.005"),
    ("50\\%", "50"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("1,-2", "-2,1"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x^2-1", "(x-1)(x+1)"),
    ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"),
    ("\\frac{\\pi}{2}", "0.5\\pi"),
    ("2\\pi r", "2r\\pi"),
    ("\\cot x", "\\frac{\\cos x}{\\sin x}"),
    ("\\sin^2 x+\\cos^2 x", "1"),
    ("6-5i", "-5i+6"),
    ("4!", "24"),
    ("2^{10}", "1024"),
    ("\\log_2 8", "3"),
    ("x>1", "1<x"),
    ("(1,\\infty)", "x>1"),
    ("\\pm 2", "2,-2"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("(2,1+x)", "(2,x+1)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\\\frac42\\end{pmatrix}"),
    ("x^{10}", "x^10"),
]
DIFFERENT = [
    *(pair for pair in BY_LAYOUT if pair not in EQUAL and pair[::-1] not in EQUAL),
    ("2\\sqrt3", "\\sqrt{13}"),
    ("5\\%", "0.5"),
    ("5\\%", "0.005"),
    ("\\{1,2\\}", "\\{1,3\\}"),
    ("\\{1,2\\}", "(1,2)"),
    ("1,2", "(1,2)"),
    ("(x+1)^2", "x^2+2x"),
    ("x", "y"),
    ("2x", "2y"),
    ("listen", "silent"),
    ("\\text{even}", "\\text{neve}"),
    ("10^{-20}", "2\\cdot10^{-20}"),
    ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
    ("\\pi", "3.14"),
    ("\\pi", "3.14159265"),
    ("0.0000001", "0.0000002"),
    ("x>1", "x\\ge1"),
    ("1:2", "\\frac12"),
    ("|x|", "x"),
    ("x_1", "x_2"),
    ("\\frac{x}{y}", "\\frac{y}{x}"),
    ("\\infty", "-\\infty"),
    ("\\pm 2", "2"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("\\frac{", "x"),
    ("", "x"),
]
HOSTILE = ["2^{2^{40}}-1", "(10^7)!", "\\binom{10^9}{5\\cdot10^8}", "x^{99999}-1"]
ODD = ["((10^{9})!)!", "9^{9^{9^{9}}}", "(" * 140, "x^{" * 90, "\\int" * 50, "\\frac{" * 40, "\\left", "\\", "\x00"]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_by_algebra(one, other):
    assert LATEX.equal(one, other)
    assert LATEX.equal(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_never_equal(one, other):
    assert not LATEX.equal(one, other)
    assert not LATEX.equal(other, one)


def test_from_the_text_to_the_verdict():
    for text, gold in (
        ("So $\\boxed{5\\%}$", "0.05"),
        ("$\\boxed{1+x}$", "x+1"),
        ("#### \\sqrt{12}", "2\\sqrt3"),
        ("0.05", "5\\%"),
    ):
        assert LATEX.equal(LATEX.extract(text), LATEX.read_gold(gold))
        assert not LATEX.equal(LATEX.extract(text), LATEX.read_gold("7"))


@pytest.fixture(scope="module")
def hasty():
    worker = _Worker(seconds=0.5)
    yield worker
    worker.close()


@pytest.mark.parametrize("expression", HOSTILE)
def test_a_hostile_expression_ends_its_process_and_not_the_evaluation(hasty, expression):
    start = time.process_time()
    assert not hasty.ask(expression, "(x-1)^{99999}")
    assert hasty.process is None  # it was ended
    assert time.process_time() - start < 0.5  # here nothing was computed
    assert hasty.ask("3+x", "x+3")


@pytest.mark.parametrize("expression", ODD)
def test_odd_expressions_equal_nothing_but_themselves(expression):
    assert not LATEX.equal(expression, "x")
    assert LATEX.equal(expression, expression)


def test_a_process_that_died_is_started_again():
    worker = _Worker()
    try:
        assert worker.ask("1+x", "x+1")
        worker.process.kill()
        assert not worker.ask("2+x", "x+2")
        assert worker.process is None
        assert worker.ask("2+x", "x+2")
        assert not worker.ask("2+x", "x+3")
    finally:
        worker.close()


def test_without_math_verify_the_layout_decides(monkeypatch):
    assert algebra.comparison().startswith("math-verify 0.")
    monkeypatch.setattr(algebra, "comparison", lambda: "layout")
    algebra.equal.cache_clear()
    assert not LATEX.equal("1+y", "y+1")
    assert LATEX.equal("\\frac34", "0.75")
    algebra.equal.cache_clear()
    monkeypatch.undo()
    assert LATEX.equal("1+y", "y+1")
