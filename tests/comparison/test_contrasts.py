"""One arm against another: the error of seeds and items, on numbers whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from expert_condenser.comparison.arms import TaskResult
from expert_condenser.comparison.contrasts import difference_of, item_variance, with_verdicts
from expert_condenser.comparison.items import Items

WORDS = ("name", "ours", "sft", "nll", "gcd", "nats")
ARM, OTHER = np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.75, 3.75])


def test_without_items_it_is_the_paired_t_test():
    found = difference_of(WORDS, ARM, OTHER, None)
    paired = stats.ttest_rel(ARM, OTHER)
    interval = paired.confidence_interval(0.95)
    assert (found.difference, found.p) == (pytest.approx(1 / 3), pytest.approx(paired.pvalue))
    assert vars(found.interval) == pytest.approx({"low": interval.low, "high": interval.high})
    assert found.sd == pytest.approx(0.25 / math.sqrt(3))
    assert found.item_share is None


def test_draws_that_change_nothing_change_nothing():
    still = np.broadcast_to(ARM - OTHER, (50, 3))
    assert difference_of(WORDS, ARM, OTHER, still).p == difference_of(WORDS, ARM, OTHER, None).p


def test_items_that_move_all_seeds_alike_add_their_variance():
    moves = np.array([-0.3, 0.3] * 50)[:, None]
    drawn = (ARM - OTHER) + moves
    variance = 0.09 * 100 / 99
    assert item_variance(drawn) == pytest.approx(variance)
    found = difference_of(WORDS, ARM, OTHER, drawn)
    assert found.error == pytest.approx(math.sqrt(0.25**2 / 9 + variance))
    assert found.item_share == pytest.approx(variance / found.error**2)


def test_noise_of_single_answers_is_the_seeds_and_counts_once():
    """Each seed moves on its own: V_one = 3 V_all, so nothing is left for the items."""
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(20_000, 3))
    assert item_variance(drawn) < 0.01
    assert drawn.mean(1).var() == pytest.approx(1 / 3, rel=0.03), "what a bootstrap of items alone would add"


def test_one_seed_has_its_items_alone():
    drawn = np.array([[0.0], [1.0]] * 50)
    found = difference_of(WORDS, np.array([2.0]), np.array([1.0]), drawn)
    assert found.error == pytest.approx(math.sqrt(25 / 99))
    assert found.p == pytest.approx(2 * stats.norm.sf(1 / math.sqrt(25 / 99)))
    assert found.sd is None


@pytest.mark.parametrize("drawn", [None, np.ones((20, 3))])
def test_ties_have_no_p(drawn):
    found = difference_of(WORDS, OTHER + 1, OTHER, drawn)
    assert (found.difference, found.p, found.interval) == (1.0, None, None)
    (judged,) = with_verdicts([found], [False], 0.05)
    assert (judged.holm_p, judged.verdict) == (None, "not tested: no spread")


def contrast(shift, measure="nll", spread=0.01):
    values = np.array([-1.0, 0.0, 1.0]) * spread + shift
    return difference_of((*WORDS[:3], measure, *WORDS[4:]), values, np.zeros(3), None)


def test_holm_is_over_all_contrasts_and_the_sign_says_who_is_better():
    found = [contrast(0.5), contrast(-0.5), contrast(0.015), contrast(0.001)]
    judged = with_verdicts(found, [False, False, False, True], 0.05)
    assert [each.verdict for each in judged] == ["worse", "better", *["no difference found"] * 2]
    assert judged[0].holm_p == pytest.approx(4 * found[0].p)
    assert judged[2].holm_p == pytest.approx(2 * found[2].p)
    assert with_verdicts(found[:1], [True], 0.05)[0].verdict == "better"


def test_the_margin_of_a_hypervolume():
    found = [contrast(value, "hypervolume", 0.2) for value in (3.0, 1.0, 0.1, -3.0)] + [contrast(1.7, "hypervolume", 1)]
    assert [each.verdict for each in with_verdicts(found, [True] * 5, 0.05)] == [
        "better, by more than 2",
        "better",
        "equal within 2",
        "worse, by more than 2",
        "no difference found",
    ]


def task(nll, tokens, correct):
    items = np.array(nll, dtype=float)
    return TaskResult(
        float(np.mean(correct)),
        items.sum() / sum(tokens),
        "i",
        np.array(correct, bool),
        None,
        items,
        np.array(tokens, float),
    )


def test_scores_of_drawn_items():
    base = task([4.0, 1.0], [2, 4], [0, 1])
    runs = [[task([2.0, 8.0], [2, 4], [1, 0])], [task([1.0, 2.0], [2, 4], [1, 1])]]
    items = Items(runs, base)
    assert items.nll()[0].ravel().tolist() == [10 / 6, 3 / 6]
    assert items.accuracy()[0].ravel().tolist() == [50.0, 100.0]
    items.counts = np.array([[2, 0], [1, 1], [0, 2]], dtype=float)
    assert items.nll()[:, :, 0] == pytest.approx(np.array([[1.0, 0.5], [10 / 6, 0.5], [2.0, 0.5]]))
    assert items.base_nll().ravel() == pytest.approx([2.0, 5 / 6, 0.25])
    assert items.accuracy()[:, 0, 0].tolist() == [100.0, 50.0, 0.0]


def test_draws_are_of_as_many_items_and_the_bootstrap_has_the_known_variance():
    """The mean of N drawn values has the variance of the values over N."""
    values = np.arange(40.0)
    runs = [[task(values, [1] * 40, [0] * 40)]]
    items = Items(runs)
    items.draw(np.random.default_rng(0), 4000)
    assert set(items.counts.sum(1)) == {40}
    assert items.nll().var() == pytest.approx(values.var() / 40, rel=0.06)
    assert items.nll().mean() == pytest.approx(19.5, abs=0.1)


def test_without_the_nll_of_items_it_does_not_change_with_the_draw():
    plain = TaskResult(0.5, 1.25, "i", np.array([True, False]))
    items = Items([[plain]], plain)
    items.draw(np.random.default_rng(0), 10)
    assert not items.has_items
    assert items.nll().tolist() == [[[1.25]]]
    assert items.accuracy().shape == (10, 1, 1)
