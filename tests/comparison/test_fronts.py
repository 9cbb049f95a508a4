"""Areas, fronts, what is kept and what is dropped: on points that can be checked by hand."""

import math

import numpy as np
import pytest

from expert_condenser.comparison.fronts import front, hypervolume, is_dominated, kept_at, point, screen
from expert_condenser.errors import EvaluationError

STAIRS = np.array([[0.8, 0.25], [0.25, 1.0], [0.5, 0.5]])


def test_a_point_is_what_is_gained_and_what_is_kept():
    assert point(np.array(math.log(2)), np.array(1.0 + math.log(4)), np.array(1.0)) == pytest.approx([0.5, 0.25])
    assert point(np.array(0.0), np.array(0.5), np.array(1.0)).tolist() == [1.0, 1.0], "better than the base: kept whole"


def test_the_area_of_stairs():
    """0.25 x 1 + 0.25 x 0.5 + 0.3 x 0.25."""
    assert hypervolume(STAIRS) == pytest.approx(0.45)
    assert hypervolume(STAIRS[::-1]) == pytest.approx(0.45)
    assert hypervolume(np.array([[0.5, 0.4]])) == pytest.approx(0.2)
    assert hypervolume(np.array([[1.0, 1.0], [0.3, 0.3]])) == 1.0


@pytest.mark.parametrize("dominated", [[0.4, 0.4], [0.5, 0.5], [0.5, 0.3], [0.1, 1.0], [0.0, 0.0]])
def test_what_is_dominated_and_what_is_equal_add_nothing(dominated):
    assert hypervolume(np.vstack([STAIRS, dominated])) == pytest.approx(0.45)
    assert hypervolume(np.vstack([STAIRS, [0.81, 0.3]])) == pytest.approx(0.25 + 0.125 + 0.31 * 0.3)


def test_many_fronts_at_once():
    both = np.stack([np.stack([STAIRS, STAIRS / 2]), np.stack([STAIRS * [1, 0.5], STAIRS])])
    assert hypervolume(both) == pytest.approx(np.array([[0.45, 0.1125], [0.225, 0.45]]))


@pytest.mark.parametrize("value", [1.01, -0.01, math.nan])
def test_points_outside_of_the_square_are_refused(value):
    with pytest.raises(EvaluationError, match="points in the unit square"):
        hypervolume(np.array([[0.5, 0.5], [0.5, value]]))


def test_what_dominates():
    assert is_dominated(np.array([0.5, 0.4]), STAIRS)
    assert is_dominated(np.array([0.25, 0.99]), STAIRS)
    assert not is_dominated(np.array([0.5, 0.5]), STAIRS), "an equal point does not"
    assert not is_dominated(np.array([0.26, 0.6]), STAIRS)


def test_the_front_is_without_what_is_dominated_and_has_one_of_equals():
    points = np.vstack([STAIRS, [0.5, 0.4], STAIRS[0]])
    assert front(points) == [1, 2, 0]


def test_what_is_kept_at_a_gain():
    assert kept_at(STAIRS, 0.5) == 0.5
    assert kept_at(STAIRS, 0.65) == pytest.approx(0.375), "half-way between two learning rates"
    assert kept_at(STAIRS, 0.1) == 1.0
    assert kept_at(STAIRS, 0.8) == 0.25
    assert kept_at(STAIRS, 0.81) is None
    assert kept_at(np.vstack([STAIRS, [0.65, 0.1]]), 0.65) == pytest.approx(0.375), "a dominated point is passed by"


def seeds(points, spread):
    """Two seeds whose means are the points, and whose standard deviation is `spread` in both directions."""
    half = spread / math.sqrt(2)
    return np.stack([points - half, points + half], axis=1)


def test_screening_drops_what_is_dominated_by_more_than_two_sd_at_every_rate():
    sft = seeds(np.array([[0.4, 0.8], [0.6, 0.6]]), 0.03)
    below = np.array([[0.35, 0.75], [0.55, 0.55]])  # each 0.05 below a point of the front
    arms = {
        "sft": sft,
        "far": seeds(below, 0.024),
        "near": seeds(below, 0.026),
        "once": seeds(np.array([[0.35, 0.75], [0.61, 0.5]]), 0.001),
        "between": seeds(np.array([[0.5, 0.65], [0.5, 0.65]]), 0.001),
    }
    found = screen(arms, "sft")
    assert {name for name, rule in found.items() if rule.dropped} == {"far"}
    assert found["far"].dominated == [True, True]
    assert found["near"].dominated == [False, False]
    assert found["once"].dominated == [True, False]
    assert found["far"].spread == pytest.approx((0.024, 0.024))
    assert found["sft"].dominated == [False, False]


def test_the_sd_of_screening_is_pooled_over_the_grid():
    sft = seeds(np.array([[0.4, 0.8], [0.6, 0.6]]), 0.0)
    below = np.array([[0.35, 0.75], [0.55, 0.55]])
    uneven = np.concatenate([seeds(below[:1], 0.0), seeds(below[1:], 0.04)])
    found = screen({"sft": sft, "uneven": uneven}, "sft")["uneven"]
    assert found.spread == pytest.approx((0.04 / math.sqrt(2),) * 2)
    assert found.dominated == [False, False], "0.0566 up, though the first rate has no spread of its own"


def test_an_arm_equal_to_the_front_is_kept():
    sft = seeds(np.array([[0.4, 0.8], [0.6, 0.6]]), 0.0)
    assert not screen({"sft": sft, "same": sft.copy()}, "sft")["same"].dropped


def test_one_seed_cannot_be_screened():
    with pytest.raises(EvaluationError, match="two seeds"):
        screen({"sft": np.ones((2, 1, 2))}, "sft")
