"""Every statistic against scipy, statsmodels, or a value worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from expert_condenser.comparison.statistics import (
    effect_size,
    hierarchical_bootstrap,
    holm,
    is_constant,
    mcnemar_p,
    minimum_detectable,
    resampled_means,
    t_test,
    wilcoxon_p,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def answers(rng, seeds, items, item_sd=0.0):
    """Differences in -1, 0, 1 that lean to either side by item."""
    lean = rng.normal(0, item_sd, items)
    return (rng.normal(lean, 1, (seeds, items)) > 0.8).astype(int) - (rng.normal(-lean, 1, (seeds, items)) > 0.8)


def test_t_by_hand():
    result = t_test(np.array([1.0, 2.0, 3.0, 4.0]))
    error = math.sqrt(5 / 3) / 2
    assert result.mean == 2.5
    assert result.low == pytest.approx(2.5 - 3.182446305 * error)
    assert result.high == pytest.approx(2.5 + 3.182446305 * error)
    assert result.p == pytest.approx(2 * stats.t.sf(2.5 / error, 3))


def test_t_is_scipys_for_every_study(rng):
    first, second = rng.normal(size=(2, 7, 5))
    result = t_test(first - second, alpha=0.1)
    expected = stats.ttest_rel(first, second, axis=-1)
    interval = expected.confidence_interval(0.9)
    np.testing.assert_allclose(result.p, expected.pvalue)
    np.testing.assert_allclose([result.low, result.high], [interval.low, interval.high])
    unpaired = stats.ttest_ind(first, second, axis=-1).pvalue
    assert not np.allclose(result.p, unpaired)


def test_equal_differences_have_no_t():
    rounded = np.array([0.3 - 0.1, 0.4 - 0.2, 0.2])
    assert len(set(rounded)) > 1
    result = t_test(np.array([rounded, [0.0, 0.0, 0.0], [0.1, 0.2, 0.3]]))
    assert np.isnan(result.p).tolist() == np.isnan(result.low).tolist() == [True, True, False]
    assert result.mean == pytest.approx([0.2, 0.0, 0.2])
    assert np.isnan(t_test(np.array([1.0])).p)
    assert is_constant(rounded)
    assert not is_constant(np.array([0.2, 0.2, 0.2 + 1e-6]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 2**5),
        ([1.0, 2.0, 3.0, 4.0, -5.0], 2 * 10 / 2**5),  # 10 of the 32 subsets of 1..5 sum to 5 or less
        ([0.0, 1.0, 2.0, 3.0], 2 / 2**3),
        ([1.0, -1.0], 1.0),
        ([2.0], 1.0),
    ],
)
def test_wilcoxon_by_hand(differences, p):
    assert wilcoxon_p(np.array(differences)) == pytest.approx(p)


def test_wilcoxon_is_scipys_exact_one(rng):
    for seeds in range(2, 16):
        differences = rng.normal(0.5, 1, seeds)
        assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_wilcoxon_with_ties_is_scipys_permutation_test(rng):
    every = stats.PermutationMethod(n_resamples=10_000)
    normal = []
    for _ in range(10):
        differences = rng.integers(-2, 4, 7) / 10
        nonzero = differences[differences != 0]
        exact = wilcoxon_p(differences)
        assert exact == pytest.approx(stats.wilcoxon(nonzero, method=every).pvalue)
        normal.append(exact - stats.wilcoxon(nonzero, method="asymptotic").pvalue)
    assert max(map(abs, normal)) > 0.01
    assert math.isnan(wilcoxon_p(np.zeros(4)))


def test_mcnemar_by_hand_and_by_statsmodels(rng):
    method = np.array([True] * 10 + [False] * 2 + [True] * 5 + [False] * 3)
    baseline = np.array([False] * 10 + [True] * 2 + [True] * 5 + [False] * 3)
    assert mcnemar_p(method, baseline) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar_p(method, baseline) == mcnemar_p(baseline, method)
    assert mcnemar_p(method, method) == 1.0
    first, second = rng.random((2, 300)) < 0.6
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert mcnemar_p(first, second) == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert mcnemar_p(first, second) != pytest.approx(mcnemar(table, exact=False).pvalue, abs=1e-4)


def test_holm_by_hand_and_by_statsmodels(rng):
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    p_values = rng.random((5, 7)) ** 3  # few: statsmodels collects garbage at every call
    expected = np.array([multipletests(row, method="holm")[1] for row in p_values])
    np.testing.assert_allclose(holm(p_values), expected)
    bonferroni = np.array([multipletests(row, method="bonferroni")[1] for row in p_values])
    assert (holm(p_values) <= bonferroni).all()
    assert not np.allclose(expected, bonferroni)


def test_a_test_without_an_answer_counts_in_holms_correction():
    assert holm(np.array([0.01, math.nan])) == pytest.approx([0.02, math.nan], nan_ok=True)


def test_effect_size_by_hand():
    differences = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    cohen = 3 / math.sqrt(2.5)
    exact = math.gamma(2) / (math.sqrt(2) * math.gamma(1.5))
    assert effect_size(differences) == pytest.approx(exact * cohen)
    assert exact == pytest.approx(1 - 3 / (4 * 4 - 1), abs=0.005)  # Hedges' approximation
    assert effect_size(-differences) == -effect_size(differences)
    assert math.isnan(effect_size(np.array([1.0, 2.0])))
    assert math.isnan(effect_size(np.ones(5)))


def test_effect_size_is_unbiased(rng):
    draws = rng.normal(0.7, 1, (20_000, 4))
    found = np.mean([effect_size(row) for row in draws[:5_000]])
    plain = np.mean(draws.mean(1) / draws.std(1, ddof=1))
    assert found == pytest.approx(0.7, abs=0.04)
    assert plain > 0.85


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20])
def test_minimum_detectable_is_statsmodels(rng, seeds):
    differences = rng.normal(size=seeds)
    expected = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8) * differences.std(ddof=1)
    assert minimum_detectable(differences) == pytest.approx(expected, rel=1e-4)


def test_minimum_detectable_holds_where_the_solver_of_statsmodels_gives_up(rng):
    differences, level = np.array([1.0, 2.0, 3.0, 4.0]), 0.05 / 7
    effect = minimum_detectable(differences, 0.05, methods=7) / differences.std(ddof=1)
    draws = rng.normal(0, 1, (40_000, 4))
    assert (t_test(draws + effect).p <= level).mean() == pytest.approx(0.8, abs=0.01)
    given_up = np.ravel(TTestPower().solve_power(nobs=4, alpha=level, power=0.8))[0]
    assert np.isnan(given_up) or (t_test(draws + given_up).p <= level).mean() < 0.75


def test_minimum_detectable_is_found_at_the_stated_power(rng):
    sd, seeds = 2.0, 5
    smallest = minimum_detectable(np.array([-1.0, -1.0, 0.0, 1.0, 1.0]) * sd)  # of sample sd 1 times sd
    rejected = t_test(rng.normal(smallest, sd, (20_000, seeds))).p <= 0.05
    assert rejected.mean() == pytest.approx(0.8, abs=0.01)
    assert math.isnan(minimum_detectable(np.ones(5)))


def test_resampled_means_are_those_of_drawing_items_one_by_one(rng):
    values = rng.integers(-5, 6, 200)
    fast = resampled_means(values, 20_000, rng)
    slow = values[rng.integers(0, 200, (20_000, 200))].mean(1)
    assert fast.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.02)
    np.testing.assert_allclose(
        np.quantile(fast, [0.025, 0.5, 0.975]), np.quantile(slow, [0.025, 0.5, 0.975]), atol=0.03
    )


def half_width(interval):
    return (interval.high - interval.low) / 2


@pytest.mark.parametrize("item_sd", [0.0, 0.3])
def test_bootstrap_has_the_width_of_its_variance_components(rng, item_sd):
    differences = answers(rng, 12, 200, item_sd)
    interval = hierarchical_bootstrap([differences], rng)
    by_seed, by_item = differences.mean(1), differences.mean(0)
    residual = differences - by_seed[:, None] - by_item + differences.mean()
    seeds = by_seed.var(ddof=1) / 12
    items = by_item.var(ddof=1) / 200 - (residual**2).sum() / (11 * 199) / (12 * 200)
    expected = math.sqrt(stats.t.ppf(0.975, 11) ** 2 * seeds + stats.norm.ppf(0.975) ** 2 * max(0.0, items))
    assert half_width(interval) == pytest.approx(expected, rel=0.05)
    both_at_once = 1.96 * math.sqrt(seeds + by_item.var(ddof=1) / 200 + (residual**2).sum() / (12 * 200) ** 2)
    assert half_width(interval) < 0.9 * both_at_once


def test_bootstrap_is_paired_in_seeds_and_items(rng):
    differences = answers(rng, 5, 100, 0.5)
    same = hierarchical_bootstrap([differences], np.random.default_rng(1))
    assert same == hierarchical_bootstrap([differences], np.random.default_rng(1))
    assert same != hierarchical_bootstrap([differences], np.random.default_rng(2))
    assert hierarchical_bootstrap([np.zeros((5, 100), int)], rng) is None
    assert hierarchical_bootstrap([np.ones((5, 100), int)], rng) is None


def test_bootstrap_of_one_seed_is_over_items_alone(rng):
    differences = answers(rng, 1, 400, 0.5)
    interval = hierarchical_bootstrap([differences], rng)
    expected = stats.norm.ppf(0.975) * differences.std() / math.sqrt(400)
    assert half_width(interval) == pytest.approx(expected, rel=0.04)


def test_bootstrap_of_several_tasks_weighs_them_alike(rng):
    small, large = answers(rng, 10, 50, 0.5), np.ones((10, 500), int)
    interval = hierarchical_bootstrap([small, large], np.random.default_rng(1))
    alone = hierarchical_bootstrap([small], np.random.default_rng(1))
    assert (interval.low + interval.high) / 2 == pytest.approx((small.mean() + 1) / 2, abs=0.01)
    assert half_width(interval) == pytest.approx(half_width(alone) / 2, rel=0.05)


def test_one_item_has_no_interval():
    one = np.array([[1], [0], [1]], dtype=np.int8)
    assert hierarchical_bootstrap([one], np.random.default_rng(0), resamples=10) is None
