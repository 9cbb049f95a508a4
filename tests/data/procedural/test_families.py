import ast
import hashlib
import operator
import random
import re

import pytest

from expert_condenser.data.procedural.families import (
    BY_NAME,
    FAMILIES,
    HELD_OUT_ITEMS,
    PRETRAINED,
    TASKS,
    draw,
    frequencies,
    items,
)

reasoning_gym = pytest.importorskip("reasoning_gym")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def test_the_mixture_has_a_long_tail():
    shares = list(frequencies().values())
    assert len(PRETRAINED) >= 12
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] / shares[9] == pytest.approx(10)


def held_out_questions(name):
    return [item.question for split in ("validation", "test") for item in items(name, split, HELD_OUT_ITEMS)]


@pytest.mark.parametrize("name", BY_NAME)
def test_held_out_items_are_distinct(name):
    assert len(set(held_out_questions(name))) == 2 * HELD_OUT_ITEMS


@pytest.mark.parametrize("name", [f.name for f in BY_NAME.values() if f.trainable and not f.recalled])
def test_held_out_items_are_never_trained_on(name):
    trained = {item.question for item in items(name, "finetune", 300)}
    assert not trained & set(held_out_questions(name))


def test_items_are_the_same_for_ever():
    """The accuracy of the embedded base is about these items; another generator would make it another figure."""
    text = repr([items(family.name, "test", 50) for family in FAMILIES])
    assert hashlib.sha1(text.encode()).hexdigest() == "b394f4bf842deec1fba051ab02e1790c9ac8aea2"


def test_draws_depend_on_their_seed_and_split():
    assert items("gcd", "finetune", 5) == items("gcd", "finetune", 5)
    assert items("gcd", "finetune", 5) != items("gcd", "finetune", 5, seed=1)
    assert draw("gcd", "pretrain", random.Random(0)) != draw("gcd", "finetune", random.Random(0))


@pytest.mark.parametrize("name", [f.name for f in FAMILIES + TASKS if f.generator is not None])
def test_worked_solutions_are_right(name):
    for item in items(name, "test", 100):
        *work, last = item.answer.split("\n")
        for line in work:
            left, sign, right, result = re.fullmatch(r"(-?\d+)([-+*/])(\d+)=(-?\d+)", line).groups()
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
        assert last == f"#### {work[-1].split('=')[1]}"


def test_worked_sums_answer_their_question():
    for item in items("worked_sums", "test", 50):
        terms = re.findall(r"[-+]? ?\d+", item.question.split(":")[1])
        assert sum(ast.literal_eval(term.replace(" ", "").lstrip("+")) for term in terms) == int(
            item.answer.split()[-1]
        )


def test_unknown_family_and_too_many_held_out_items():
    with pytest.raises(ValueError, match=r"unknown testbed family 'sudoku'.*gcd"):
        items("sudoku", "test", 1)
    with pytest.raises(ValueError, match="test has 400 items of gcd; asked for 401"):
        items("gcd", "test", 401)
