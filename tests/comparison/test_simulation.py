"""1,000 simulated studies: tests err as often as stated, intervals cover as often as stated, an effect is found.

Beside every bound there is a mistake that breaks it.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, special, stats

from expert_condenser.comparison.simulation import (
    STUDIES,
    Study,
    calibrate,
    calibration_table,
    mean_chance,
    simulate,
    simulate_studies,
)
from expert_condenser.comparison.statistics import t_test

COUNT = 1000
LOW, HIGH = stats.binom.interval(0.999, COUNT, 0.05)[0] / COUNT, stats.binom.interval(0.999, COUNT, 0.05)[1] / COUNT


@functools.cache
def rates(name):
    return calibrate(COUNT, STUDIES[name], resamples=400, seed=0)


@pytest.mark.parametrize("name", ["no effect", "3 seeds"])
def test_tests_and_intervals_are_at_the_stated_level(name):
    found = rates(name)
    assert LOW <= found["paired t rejects"] <= HIGH
    assert LOW <= found["bootstrap rejects"] <= HIGH
    assert LOW <= 1 - found["t interval covers, these items"] <= HIGH
    assert LOW <= 1 - found["bootstrap interval covers, new items"] <= HIGH
    assert found["Wilcoxon rejects"] == 0  # its p is at least 2 / 2^5
    assert found["control: plain bootstrap over seeds covers, these items"] < 0.87


def test_pairing_by_seed_is_what_makes_the_t_test_right():
    scores = simulate_studies(np.random.default_rng(0), Study(items=100, seed_sd=0.6), COUNT).correct.mean(-1)
    assert LOW <= (t_test(scores[1] - scores[0]).p <= 0.05).mean() <= HIGH
    assert (stats.ttest_ind(scores[1], scores[0], axis=-1).pvalue <= 0.05).mean() < LOW


def test_mcnemar_is_about_two_models_and_not_about_methods():
    assert rates("equal models")["McNemar of one seed rejects"] <= HIGH
    assert rates("no effect")["McNemar of one seed rejects"] > HIGH  # the two models do differ, the methods do not
    assert rates("no effect")["control: McNemar of all seeds pooled rejects"] > HIGH


def test_wilcoxon_has_its_level_once_there_are_enough_seeds():
    assert 0 < calibrate(COUNT, Study(seeds=8, items=100), resamples=1)["Wilcoxon rejects"] <= HIGH


def test_where_items_respond_to_methods_only_the_bootstrap_is_about_new_items():
    found = rates("10 seeds, items respond")
    assert LOW <= found["bootstrap rejects"] <= HIGH
    assert LOW <= 1 - found["bootstrap interval covers, new items"] <= HIGH
    assert LOW <= 1 - found["t interval covers, these items"] <= HIGH
    assert found["paired t rejects"] > 2 * HIGH
    assert found["control: t interval covers, new items"] < 1 - 2 * HIGH


def test_holm_keeps_the_family_of_seven_methods_at_the_level():
    found = rates("7 methods")
    assert 0.01 < found["any method rejected, Holm"] <= HIGH
    assert found["control: any method rejected, uncorrected"] > 0.15


def test_a_known_effect_is_found_and_its_intervals_cover():
    found = rates("effect")
    assert found["paired t rejects"] > 0.9
    assert found["bootstrap rejects"] > 0.9
    assert LOW <= 1 - found["bootstrap interval covers, new items"] <= HIGH
    assert LOW <= 1 - found["t interval covers, these items"] <= HIGH
    assert found["McNemar of one seed rejects"] < found["control: McNemar of all seeds pooled rejects"]


def test_a_larger_effect_is_found_in_almost_all_studies():
    found = calibrate(200, Study(effect=1.0), resamples=200)
    assert found["paired t rejects"] > 0.99
    assert found["bootstrap rejects"] > 0.99


def test_one_study():
    study = Study(seeds=4, items=50, methods=2)
    found = simulate(np.random.default_rng(0), study)
    assert list(found) == ["baseline", "method 1", "method 2"]
    assert {correct.shape for correct in found.values()} == {(4, 50)}
    again = simulate(np.random.default_rng(0), study)
    assert all((found[name] == again[name]).all() for name in found)
    assert (simulate(np.random.default_rng(1), study)["baseline"] != found["baseline"]).any()


def test_arms_share_the_difficulty_of_items_and_the_luck_of_seeds():
    study = Study(seeds=30, items=400, noise_sd=0.0, seed_sd=1.0)
    baseline, method = simulate(np.random.default_rng(0), study).values()
    assert np.corrcoef(baseline.mean(0), method.mean(0))[0, 1] > 0.9
    assert np.corrcoef(baseline.mean(1), method.mean(1))[0, 1] > 0.9
    noisy, other = simulate(np.random.default_rng(0), Study(seeds=30, items=400, noise_sd=1.0, seed_sd=0.0)).values()
    assert abs(np.corrcoef(noisy.mean(1), other.mean(1))[0, 1]) < 0.5


def test_the_truth_is_what_studies_have_in_the_mean():
    outcome = simulate_studies(np.random.default_rng(0), Study(effect=0.8, response_sd=0.5, methods=2), 400)
    measured = outcome.correct.mean(-1).mean(-1)
    assert (measured[1] - measured[0]).mean() == pytest.approx(outcome.truth, abs=0.004)
    assert (measured[2] - measured[0]).mean() == pytest.approx(0.0, abs=0.004)
    assert outcome.truth_of_items.mean() == pytest.approx(outcome.truth, abs=0.004)
    errors = measured[1] - measured[0] - outcome.truth_of_items
    assert errors.std() < (measured[1] - measured[0] - outcome.truth).std()


@pytest.mark.parametrize("sd", [0.2, 1.0, 2.0])
def test_mean_chance_is_the_integral(sd):
    expected = integrate.quad(lambda z: special.expit(0.7 + sd * z) * stats.norm.pdf(z), -12, 12)[0]
    assert mean_chance(np.array([0.7]), sd) == pytest.approx([expected], abs=1e-6)
    assert mean_chance(np.array([0.7]), 0.0) == pytest.approx([special.expit(0.7)])


def test_table_of_all_designs():
    titles, cells = calibration_table(20, {"no effect": Study(items=50), "family": Study(items=50, methods=3)})
    assert titles == ["share of studies", "no effect", "family"]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["any method rejected, Holm"][0] == ""
    assert all(cell.endswith("%") for cell in rows["paired t rejects"])


def test_the_page_has_the_rows_and_columns_of_the_table():
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    assert f"| share of studies | {' | '.join(STUDIES)} |" in page
    _, cells = calibration_table(2, {"family": Study(items=20, methods=2)})
    assert all(f"\n| {row[0]} |" in page for row in cells)
