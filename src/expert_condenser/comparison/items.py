"""What runs score on a task when its items are drawn anew: nll per token and accuracy, the same draw for every run.

Letters: L labels (an arm at a point of its grid), S seeds, N items, B draws. Without draws B is 1, and the items are
what they are.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from expert_condenser.comparison.arms import TaskResult

DRAWS = 1_000
"""Enough for a variance: its own error is 1 / sqrt(2 DRAWS), 2 %."""


class Items:
    """The results of runs on one task, and how often every item is drawn."""

    def __init__(self, results: Sequence[Sequence[TaskResult]], base: TaskResult | None = None) -> None:
        """`results` has a list for every label, in the order of the seeds."""
        self.shape = len(results), len(results[0])
        self.found = [result for own in results for result in own]
        self.base = base
        self.counts: Float[np.ndarray, "B N"] | None = None

    def draw(self, rng: np.random.Generator, draws: int = DRAWS) -> None:
        """Draw N of the items with replacement, `draws` times."""
        size = self.found[0].correct.size
        chosen = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size)
        self.counts = counts.astype(np.float64)

    @property
    def has_items(self) -> bool:
        """Whether every run has the nll of single items."""
        return all(each.nll_items is not None for each in (*self.found, *([self.base] if self.base else [])))

    def accuracy(self) -> Float[np.ndarray, "B L S"]:
        """In points."""
        values = np.array([each.correct for each in self.found])
        if self.counts is None:
            return 100 * values.mean(1).reshape(1, *self.shape)
        return 100 * self._weighted(values) / values.shape[1]

    def nll(self) -> Float[np.ndarray, "B L S"]:
        """In nats per token. Only with `has_items` does it change with the draw."""
        known = np.array([np.nan if each.nll is None else each.nll for each in self.found])
        if self.counts is None or not self.has_items:
            return known.reshape(1, *self.shape)
        return self._weighted(np.array([each.nll_items for each in self.found])) / self._tokens(self.found[0])

    def base_nll(self) -> Float[np.ndarray, "B 1 1"]:
        """That of the base model."""
        assert self.base is not None
        if self.counts is None or not self.has_items:
            return np.full((1, 1, 1), np.nan if self.base.nll is None else self.base.nll)
        assert self.base.nll_items is not None
        return (self.counts @ self.base.nll_items).reshape(-1, 1, 1) / self._tokens(self.base)

    def _weighted(self, values: Shaped[np.ndarray, "LS N"]) -> Float[np.ndarray, "B L S"]:
        assert self.counts is not None
        return (self.counts @ values.astype(np.float64).T).reshape(-1, *self.shape)

    def _tokens(self, one: TaskResult) -> Float[np.ndarray, "B 1 1"]:
        """How many tokens the references of the drawn items have; they are the same for all runs."""
        assert self.counts is not None
        assert one.token_items is not None
        return (self.counts @ one.token_items).reshape(-1, 1, 1)
