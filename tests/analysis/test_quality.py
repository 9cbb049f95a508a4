"""What a mean over items says: accuracy and nll with intervals for new items, and differences paired over items."""

import numpy as np
import pytest

from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.evaluation.teacher_forced import judged
from expert_condenser.testing import tiny_model
from tests.analysis.rows import rows


def quality(seed, shift=0.0, count=400):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 5, count).astype(float)
    return Quality(
        (rng.random(count) < 0.3).astype(float), rng.gamma(2.0, size=count) * tokens + shift * tokens, tokens
    )


def test_numbers_are_those_of_the_items():
    found, forced = quality_of(tiny_model(), rows()), judged(tiny_model(), rows())
    assert found.accuracy == forced.accuracy
    assert found.nll_per_token == pytest.approx(forced.nll_per_token)
    assert found.tokens.tolist() == [3] * 6


def test_an_interval_is_that_of_the_mean():
    found = quality(0)
    accuracy, nll = found.intervals()
    error = np.sqrt(found.accuracy * (1 - found.accuracy) / 400)
    assert (accuracy.high - accuracy.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert nll.low < found.nll_per_token < nll.high
    assert (
        quality(0, count=100).intervals()[0].high - quality(0, count=100).intervals()[0].low
        > accuracy.high - accuracy.low
    )


def test_a_rise_is_paired_over_items():
    low, high = quality(0), quality(0, shift=0.1)
    rise, interval = high.rise_over(low)
    assert rise == pytest.approx(0.1)
    assert interval.high - interval.low < 1e-9, "every item rises alike"
    unpaired, wide = quality(1).rise_over(low)
    assert wide.high - wide.low > 0.1
    assert wide.low < unpaired < wide.high
