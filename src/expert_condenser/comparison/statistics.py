"""The statistics of one method against a baseline: pure functions of arrays, on scipy.

Letters: S seeds, N items, R a leading axis of studies. `differences` are method minus baseline, paired by seed (and by
item). A test without an answer (all differences equal) gives nan here; reports write it as null, with a note.
docs/statistics.md says which of these to believe when.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special, stats

from expert_condenser.errors import EvaluationError

POWER = 0.8
RESAMPLES = 10_000
MAX_ALPHA = 0.5
_ROUNDING = 9
"""Decimals that count: scores are ratios of counts, and 0.3 - 0.1 must tie with 0.4 - 0.2."""


def check_level(alpha: float, resamples: int = RESAMPLES) -> None:
    """Raise `EvaluationError` on a level of tests, or a number of resamples, with which no result means anything."""
    if not 0 < alpha <= MAX_ALPHA:  # in this direction, so that nan is refused
        meant = f"; for intervals of {alpha:g}, alpha is {1 - alpha:g}" if MAX_ALPHA < alpha < 1 else ""
        raise EvaluationError(
            f"alpha is the level of tests (0.05, say; intervals are of 1 - alpha), above 0 and at most {MAX_ALPHA}; "
            f"got {alpha}{meant}"
        )
    if resamples < 1:
        raise EvaluationError(f"the bootstrap draws resamples, at least 1; got {resamples}")


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of what it is of."""

    low: float
    high: float


@dataclass(frozen=True)
class TTest:
    """Means, intervals and p-values, one per leading index; nan where all values are equal, or there is one."""

    mean: Float[np.ndarray, "*R"]
    low: Float[np.ndarray, "*R"]
    high: Float[np.ndarray, "*R"]
    p: Float[np.ndarray, "*R"]


def is_constant(values: Float[np.ndarray, "*R S"]) -> Bool[np.ndarray, "*R"]:
    """Whether all S values are equal, up to rounding; then a spread over seeds says nothing."""
    return np.asarray(np.ptp(values, axis=-1) < 10.0**-_ROUNDING)


def t_test(differences: Float[np.ndarray, "*R S"], alpha: float = 0.05) -> TTest:
    """The paired t-test over seeds and its confidence interval (`scipy.stats.ttest_rel`).

    t = mean / (sd / sqrt(S)) with S - 1 degrees of freedom; the interval is mean ± t(1 - alpha/2, S - 1) sd / sqrt(S).
    """
    defined = ~is_constant(differences)[..., None] & (differences.shape[-1] > 1)
    known = np.where(defined, differences, np.nan)
    result = stats.ttest_rel(known, np.zeros_like(known), axis=-1)
    interval = result.confidence_interval(1 - alpha)
    arrays = (differences.mean(-1), interval.low, interval.high, result.pvalue)
    return TTest(*(np.asarray(array, dtype=np.float64) for array in arrays))


def wilcoxon_p(differences: Float[np.ndarray, " S"]) -> float:
    """Wilcoxon's signed-rank test over seeds: p two-sided, exact with ties and zeros too.

    Differences of zero are left out (Wilcoxon's own rule), ties share their mean rank. Without an effect each of the
    2^S patterns of signs is equally likely: p = min(1, 2 min(P(W <= w), P(W >= w))), W the sum of the ranks of the
    positive differences. It is at least 2 / 2^S. Equals `scipy.stats.wilcoxon` with `PermutationMethod`, which takes
    0.3 s for ten seeds where this takes 0.1 ms.
    """
    rounded = np.round(differences, _ROUNDING)
    rounded = rounded[rounded != 0]
    if not rounded.size:
        return math.nan
    doubled = np.rint(2 * stats.rankdata(np.abs(rounded))).astype(int)  # mean ranks are multiples of 1/2
    chances = np.ones(1)
    for rank in doubled:  # P(2 W = index), one rank after the other
        padding = np.zeros(rank)
        chances = (np.concatenate([chances, padding]) + np.concatenate([padding, chances])) / 2
    found = doubled[rounded > 0].sum()
    return float(min(1.0, 2 * min(chances[: found + 1].sum(), chances[found:].sum())))


def mcnemar_p(method: Bool[np.ndarray, " N"], baseline: Bool[np.ndarray, " N"]) -> float:
    """McNemar's exact test over the items of one seed: p two-sided.

    With b items that only the method solves and c that only the baseline solves, b ~ Binomial(b + c, 1/2) if the two
    models solve equally many; p = min(1, 2 P(X <= min(b, c))), 1 where no item tells them apart. Equals
    `mcnemar(exact=True)` of statsmodels.
    """
    gained, lost = int((method & ~baseline).sum()), int((~method & baseline).sum())
    return float(min(1.0, 2 * stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def holm(p_values: Float[np.ndarray, "*R M"]) -> Float[np.ndarray, "*R M"]:
    """Holm's step-down correction over M methods: adjusted p, to compare with alpha.

    Adjusted p of rank k = max over j <= k of min(1, (M - j + 1) p_j). A nan stays nan, yet counts in M as a method
    that was looked at. Equals `multipletests(method="holm")` of statsmodels, which collects garbage at every call.
    """
    known = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(known, axis=-1, kind="stable")
    factors = np.arange(p_values.shape[-1], 0, -1)
    stepped = np.maximum.accumulate(factors * np.take_along_axis(known, order, axis=-1), axis=-1)
    adjusted = np.empty_like(known)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), axis=-1)
    return np.where(np.isnan(p_values), np.nan, adjusted)


def effect_size(differences: Float[np.ndarray, " S"]) -> float:
    """Cohen's d_z of the paired differences with Hedges' correction: J mean / sd.

    J = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)), m = S - 1 (Hedges 1981, exact); it needs three seeds.
    """
    degrees = differences.size - 1
    if degrees < 2 or is_constant(differences):
        return math.nan
    log_correction = special.gammaln(degrees / 2) - special.gammaln((degrees - 1) / 2) - math.log(degrees / 2) / 2
    return float(math.exp(log_correction) * differences.mean() / differences.std(ddof=1))


def minimum_detectable(
    differences: Float[np.ndarray, " S"], alpha: float = 0.05, *, methods: int = 1, power: float = POWER
) -> float:
    """The smallest true difference that the paired t-test over these S seeds finds with probability `power`.

    The effect d with P(|T| > t(1 - level/2, S - 1)) = `power`, T noncentral t with S - 1 degrees of freedom around
    d sqrt(S), times the observed sd. The level is alpha / methods, that of Holm's first step: what a single true
    effect must pass. nan where the sd is zero or unknown. Equals `TTestPower.solve_power` of statsmodels where that
    converges; for few seeds it returns an end of its search range instead.
    """
    seeds = differences.size
    if seeds < 2 or is_constant(differences):
        return math.nan
    critical = stats.t.isf(alpha / methods / 2, seeds - 1)

    def lacking(effect: float) -> float:
        shift = effect * math.sqrt(seeds)
        tails = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.sf(critical, seeds - 1, -shift)
        return float(tails) - power

    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high)) * float(differences.std(ddof=1))


def resampled_means(
    values: Float[np.ndarray, " N"] | Int[np.ndarray, " N"], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, " B"]:
    """Means of B = `resamples` draws of N values with replacement.

    Drawing N items is drawing how often each distinct value occurs: a multinomial over the few values that the
    difference of an item, summed over seeds, can take. So no B x N array is needed.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(values.size, counts / values.size, size=resamples)
    return np.asarray(drawn @ distinct.astype(np.float64) / values.size)


def hierarchical_bootstrap(
    differences: Sequence[Int[np.ndarray, "S _"]],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    alpha: float = 0.05,
) -> Interval | None:
    """Percentile interval for new seeds and new items, of the unweighted mean over T tasks; differences are -1, 0, 1.

    Seeds and items are crossed: every seed answers the same items. So seeds and items are resampled independently, the
    same indices for both arms, and their deviations from the mean are added:

        mean* = mean + k (mean of S drawn seeds - mean) + l (mean of the drawn items - mean, averaged over tasks)

        k^2 = S / (S - 1) (t(1 - alpha/2, S - 1) / z(1 - alpha/2))^2,  l^2 = max(0, V_items - V_noise) / V_items

    k corrects the spread of few seeds, which resampling makes too narrow, as a t-interval does. l takes out the noise
    of single answers, which the means over seeds already hold; resampling both in one step would count it three times
    (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1). V_items and V_noise are the estimates from
    the analysis of variance below. With one seed only items are resampled (k = 0, l = 1).
    None without any spread, and where a task has one item.
    """
    if min(task.shape[1] for task in differences) < 2:
        return None
    seeds = differences[0].shape[0]
    by_seed = np.mean([task.mean(axis=1) for task in differences], axis=0)
    item_variance = sum(task.mean(axis=0).var(ddof=1) / task.shape[1] for task in differences)
    noise_variance = sum(_noise_variance(task) for task in differences) if seeds > 1 else 0.0
    shrinkage = math.sqrt(max(0.0, item_variance - noise_variance) / item_variance) if item_variance > 0 else 0.0
    items = np.mean([resampled_means(task.sum(axis=0), resamples, rng) / seeds for task in differences], axis=0)
    means = by_seed.mean() + shrinkage * (items - by_seed.mean())
    if seeds > 1:
        means = means + _inflation(seeds, alpha) * (resampled_means(by_seed, resamples, rng) - by_seed.mean())
    if is_constant(means):
        return None
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))


@functools.cache
def _inflation(seeds: int, alpha: float) -> float:
    """k: makes a bootstrap over few seeds as wide as a t-interval."""
    tail = 1 - alpha / 2
    return float(math.sqrt(seeds / (seeds - 1)) * stats.t.ppf(tail, seeds - 1) / stats.norm.ppf(tail))


def _noise_variance(differences: Int[np.ndarray, "S N"]) -> float:
    """Variance of the grand mean that single answers bring: MS_residual / (S N) of seeds x items without replicates."""
    seeds, items = differences.shape
    residual = differences - differences.mean(axis=1, keepdims=True) - differences.mean(axis=0) + differences.mean()
    return float((residual**2).sum() / ((seeds - 1) * (items - 1)) / (seeds * items))
