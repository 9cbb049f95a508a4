"""How well a model answers: accuracy and nll, with confidence intervals for new items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from expert_condenser.comparison.statistics import Interval
from expert_condenser.data.tokens import Tokens
from expert_condenser.evaluation.teacher_forced import judged

RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Quality:
    """Teacher-forced exact match, and nll per token of the answers, on the same items."""

    exact: Float[np.ndarray, " N"]
    nll: Float[np.ndarray, " N"]
    """Nats over all tokens of an item's answer."""
    tokens: Float[np.ndarray, " N"]

    @property
    def accuracy(self) -> float:
        """Share of items whose whole answer is what greedy decoding would write."""
        return float(self.exact.mean())

    @property
    def nll_per_token(self) -> float:
        """Mean over all tokens."""
        return float(self.nll.sum() / self.tokens.sum())

    def content(self) -> dict[str, Any]:
        """Both numbers with their intervals (bootstrap over items), as JSON."""
        accuracy, nll = self.intervals()
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": [accuracy.low, accuracy.high],
            "nll": self.nll_per_token,
            "nll_interval": [nll.low, nll.high],
        }

    def intervals(self) -> tuple[Interval, Interval]:
        """Of accuracy and nll, for new items."""
        drawn = _draws(len(self.nll))
        return _percentiles(drawn @ self.exact / len(self.exact)), _percentiles(
            drawn @ self.nll / (drawn @ self.tokens)
        )

    def rise_over(self, other: "Quality") -> tuple[float, Interval]:
        """By how much nll per token is above that of `other` on the same items, with an interval."""
        drawn = _draws(len(self.nll))
        tokens = drawn @ self.tokens
        return self.nll_per_token - other.nll_per_token, _percentiles(drawn @ (self.nll - other.nll) / tokens)


def quality_of(model: Any, rows: Sequence[Tokens], *, batch_size: int = 64) -> Quality:
    """Ask a model for the answers of rows, teacher-forced."""
    found = judged(model, rows, batch_size=batch_size)
    return Quality(*(np.array(values, dtype=np.float64) for values in (found.exact, found.nll, found.tokens)))


def change_of_means(values: Float[np.ndarray, " N"], before: Float[np.ndarray, " N"]) -> tuple[float, Interval]:
    """By how much the mean of items is above the one before, with an interval for new items, paired over them."""
    change = values - before
    return float(change.mean()), _percentiles(_draws(len(change)) @ change / len(change))


def _draws(count: int) -> Float[np.ndarray, "B N"]:
    """How often each of N items is drawn, in B draws of N; the same draws for the same N, so that models are paired."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def _percentiles(values: Float[np.ndarray, " B"]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
