"""One arm against another on one measure: a difference paired over seeds and items, its interval, and what follows.

The statistic may be any function of the items, a front's hypervolume too. So the part of the error that comes from the
items is found by drawing them anew, and that of the seeds from the seeds' differences:

    se^2 = Var_s(d_s) / S + max(0, V_all - (V_one - V_all) / (S - 1))
    t = mean(d) / se, with S - 1 degrees of freedom

d_s is the difference of seed s. V_all is the variance, over draws of the items, of the mean over seeds; V_one is that
of a single seed, averaged over them. Noise of single answers is in Var_s(d_s) already; (V_one - V_all) / (S - 1) takes
it out of V_all, as `hierarchical_bootstrap` does for means. Without spread over items this is the paired t-test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from expert_condenser.comparison.statistics import Interval, holm, is_constant

MARGIN = 2.0
"""Points of hypervolume, of 100 for the unit square: a smaller difference is of no matter."""


@dataclass(frozen=True)
class Difference:
    """Arm minus the other; None is what is not defined."""

    name: str
    arm: str
    against: str
    measure: str
    of: str
    unit: str
    scores: list[list[float]]
    """Of the arm and of the other, one per seed."""
    difference: float
    sd: float | None
    """Of the seeds' differences."""
    error: float | None
    """The standard error, of seeds and items."""
    item_share: float | None
    """The part of the squared error that is the items'."""
    interval: Interval | None
    p: float | None
    holm_p: float | None = None
    verdict: str = ""


def item_variance(drawn: Float[np.ndarray, "B S"]) -> float:
    """The items' part of the squared error, from B draws of the items: each seed's difference with the items drawn.

    All seeds see the same draw. With one seed the noise cannot be told apart, and counts as the items'.
    """
    seeds = drawn.shape[1]
    together = float(drawn.mean(axis=1).var(ddof=1))
    if seeds == 1:
        return together
    alone = float(drawn.var(axis=0, ddof=1).mean())
    return max(0.0, together - (alone - together) / (seeds - 1))


def difference_of(
    words: tuple[str, str, str, str, str, str],
    arm: Float[np.ndarray, " S"],
    other: Float[np.ndarray, " S"],
    drawn: Float[np.ndarray, "B S"] | None,
    alpha: float = 0.05,
) -> Difference:
    """The statistics of one contrast; `drawn` is None where there is nothing of single items.

    `words` are name, arm, against, measure, of, unit. With one seed only the items' part is known, and t is normal.
    """
    values, seeds = arm - other, arm.size
    by_seeds = 0.0 if seeds == 1 or is_constant(values) else float(values.var(ddof=1)) / seeds
    by_items = 0.0 if drawn is None else item_variance(drawn)
    error = math.sqrt(by_seeds + by_items)
    plain = Difference(
        *words,
        scores=[arm.tolist(), other.tolist()],
        difference=float(values.mean()),
        sd=float(values.std(ddof=1)) if seeds > 1 else None,
        error=None,
        item_share=None,
        interval=None,
        p=None,
    )
    if error == 0.0:
        return plain
    spread = stats.t(seeds - 1) if seeds > 1 else stats.norm()
    reach = float(spread.isf(alpha / 2)) * error
    return replace(
        plain,
        error=error,
        item_share=None if drawn is None else by_items / error**2,
        interval=Interval(plain.difference - reach, plain.difference + reach),
        p=float(2 * spread.sf(abs(plain.difference) / error)),
    )


def with_verdicts(found: Sequence[Difference], higher_is_better: Sequence[bool], alpha: float) -> list[Difference]:
    """The contrasts with Holm's correction over all of them, and what follows."""
    adjusted = holm(np.array([math.nan if each.p is None else each.p for each in found]))
    return [
        replace(each, holm_p=None if np.isnan(p) else float(p), verdict=_verdict(each, float(p), better, alpha))
        for each, p, better in zip(found, adjusted, higher_is_better, strict=True)
    ]


def _verdict(found: Difference, holm_p: float, higher_is_better: bool, alpha: float) -> str:
    if found.interval is None:
        return "not tested: no spread"
    low, high = found.interval.low, found.interval.high
    margin = MARGIN if found.measure == "hypervolume" else None
    if holm_p <= alpha:
        word = "better" if (found.difference > 0) == higher_is_better else "worse"
        return f"{word}, by more than {margin:g}" if margin and (low > margin or high < -margin) else word
    if margin and -margin < low and high < margin:
        return f"equal within {margin:g}"
    return "no difference found"
