"""Studies with a known truth, and how often each statistic is right about it: `condenser compare --calibrate 1000`.

Letters: A arms (the baseline first), R studies, S seeds, N items. The chance that arm a with seed s solves item i is

    logit p = ability + item_i + seed_s + noise_as + response_ai + effect_a

item_i (difficulty) and seed_s are shared by all arms, noise_as is what training arm a with seed s happens to make of
it, response_ai is how much item i suits arm a. The effect of the first method is `effect`, that of all others is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.polynomial.hermite_e import hermegauss
from scipy import special

from expert_condenser.comparison.statistics import (
    check_level,
    hierarchical_bootstrap,
    holm,
    mcnemar_p,
    resampled_means,
    t_test,
    wilcoxon_p,
)

_STUDIES_AT_ONCE = 100
Events = dict[str, Bool[np.ndarray, " R"]]


@dataclass(frozen=True)
class Study:
    """The design of a simulated study; effect, ability and the sds are in logits."""

    seeds: int = 5
    items: int = 300
    methods: int = 1
    effect: float = 0.0
    ability: float = 0.3
    item_sd: float = 1.5
    seed_sd: float = 0.2
    noise_sd: float = 0.1
    response_sd: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """R simulated studies: what was measured, and the true difference of the first method and the baseline."""

    correct: Bool[np.ndarray, "A R S N"]
    truth_of_items: Float[np.ndarray, " R"]
    """For new seeds on these items."""
    truth: float
    """For new seeds on new items."""


STUDIES: dict[str, Study] = {
    "no effect": Study(),
    "equal models": Study(noise_sd=0.0),
    "3 seeds": Study(seeds=3),
    "10 seeds": Study(seeds=10),
    "10 noisy seeds": Study(seeds=10, noise_sd=0.3),
    "10 seeds, items respond": Study(seeds=10, response_sd=1.0),
    "7 methods": Study(methods=7),
    "effect": Study(effect=0.5),
    "effect, items respond": Study(effect=0.5, response_sd=0.5),
}
"""What `--calibrate` runs: five seeds and one method where the name says nothing else."""


def simulate(rng: np.random.Generator, study: Study) -> dict[str, Bool[np.ndarray, "S N"]]:
    """One study: who solved what, by arm ("baseline", "method 1", ...)."""
    correct = simulate_studies(rng, study, 1).correct[:, 0]
    names = ["baseline", *(f"method {index + 1}" for index in range(study.methods))]
    return dict(zip(names, correct, strict=True))


def simulate_studies(rng: np.random.Generator, study: Study, count: int) -> Outcome:
    """`count` independent studies."""
    arms, seeds, items = 1 + study.methods, study.seeds, study.items
    effects = np.array([0.0, study.effect, *[0.0] * (study.methods - 1)])
    difficulty = rng.normal(0, study.item_sd, (1, count, 1, items))
    response = rng.normal(0, study.response_sd, (arms, count, 1, items))
    by_item = study.ability + effects[:, None, None, None] + difficulty + response
    by_run = rng.normal(0, study.seed_sd, (1, count, seeds, 1)) + rng.normal(0, study.noise_sd, (arms, count, seeds, 1))
    correct = rng.random((arms, count, seeds, items)) < special.expit(by_item + by_run)
    of_runs, of_items = (study.seed_sd, study.noise_sd), (study.item_sd, study.response_sd)
    here = mean_chance(by_item[:2, :, 0], np.hypot(*of_runs)).mean(axis=-1)
    anywhere = mean_chance(study.ability + effects[:2], np.hypot(np.hypot(*of_runs), np.hypot(*of_items)))
    return Outcome(correct, here[1] - here[0], float(anywhere[1] - anywhere[0]))


def mean_chance(logits: Float[np.ndarray, "*L"], sd: float) -> Float[np.ndarray, "*L"]:
    """Mean of sigmoid(logit + z) over z ~ Normal(0, sd^2), by Gauss-Hermite quadrature with 40 nodes."""
    nodes, weights = hermegauss(40)
    total: Float[np.ndarray, "*L"] = np.zeros_like(logits)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        total = total + weight * special.expit(logits + sd * node)
    return total


def calibrate(
    count: int, study: Study, *, alpha: float = 0.05, resamples: int = 400, seed: int = 0
) -> dict[str, float]:
    """Rates over `count` studies of this design: how often tests reject, and how often intervals cover the truth.

    Without an effect, a test that "rejects" is wrong, and should be so in a share alpha of the studies; with one, the
    rate is its power. Those called "control" are the mistakes that the statistics of this package avoid.
    """
    check_level(alpha, resamples)
    rng = np.random.default_rng(seed)
    parts: list[Events] = []
    for start in range(0, count, _STUDIES_AT_ONCE):
        outcome = simulate_studies(rng, study, min(_STUDIES_AT_ONCE, count - start))
        tests = _tests(outcome.correct, alpha)
        parts.append({**tests, **_intervals(outcome, rng, alpha, resamples), **_families(outcome.correct, alpha)})
    return {name: float(np.concatenate([part[name] for part in parts]).mean()) for name in parts[0]}


def calibration_table(
    count: int, studies: Mapping[str, Study] = STUDIES, *, alpha: float = 0.05, seed: int = 0
) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of all designs side by side, in percent."""
    columns = {name: calibrate(count, study, alpha=alpha, seed=seed) for name, study in studies.items()}
    names = dict.fromkeys(name for rates in columns.values() for name in rates)
    ordered = sorted(names, key=lambda name: (name.startswith("control"), name.lower()))
    cells = [[name, *(f"{r[name]:.1%}" if name in r else "" for r in columns.values())] for name in ordered]
    return ["share of studies", *columns], cells


def _differences(correct: Bool[np.ndarray, "A R S N"]) -> Int[np.ndarray, "R S N"]:
    return correct[1].astype(np.int8) - correct[0].astype(np.int8)


def _tests(correct: Bool[np.ndarray, "A R S N"], alpha: float) -> Events:
    """Which studies each test rejects; of those over items, the one of the first seed."""
    baseline, method = correct[:2]
    by_seed = _differences(correct).mean(axis=-1)
    pooled = [mcnemar_p(a.ravel(), b.ravel()) for a, b in zip(method, baseline, strict=True)]
    p_values = {
        "paired t rejects": t_test(by_seed, alpha).p,
        "Wilcoxon rejects": [wilcoxon_p(row) for row in by_seed],
        "McNemar of one seed rejects": [mcnemar_p(a, b) for a, b in zip(method[:, 0], baseline[:, 0], strict=True)],
        "control: McNemar of all seeds pooled rejects": pooled,
    }
    return {name: np.asarray(p) <= alpha for name, p in p_values.items()}


def _intervals(outcome: Outcome, rng: np.random.Generator, alpha: float, resamples: int) -> Events:
    """Which studies' intervals cover the truth, on these items or on new ones."""
    differences = _differences(outcome.correct)
    test = t_test(differences.mean(axis=-1), alpha)
    found = [hierarchical_bootstrap([d], rng, resamples=resamples, alpha=alpha) for d in differences]
    low, high = (np.array([np.nan if i is None else getattr(i, end) for i in found]) for end in ("low", "high"))
    tails = [alpha / 2, 1 - alpha / 2]
    plain = np.array([np.quantile(resampled_means(row, resamples, rng), tails) for row in differences.mean(axis=-1)])
    truth, here = outcome.truth, outcome.truth_of_items
    return {
        "bootstrap rejects": (low > 0) | (high < 0),
        "bootstrap interval covers, new items": (low <= truth) & (truth <= high),
        "t interval covers, these items": (test.low <= here) & (here <= test.high),
        "control: t interval covers, new items": (test.low <= truth) & (truth <= test.high),
        "control: plain bootstrap over seeds covers, these items": (plain[:, 0] <= here) & (here <= plain[:, 1]),
    }


def _families(correct: Bool[np.ndarray, "A R S N"], alpha: float) -> Events:
    """Of several methods without an effect: in which studies is at least one rejected."""
    if correct.shape[0] < 3:
        return {}
    scores = correct.mean(axis=-1)
    p_values = t_test(scores[1:] - scores[0], alpha).p
    return {
        "any method rejected, Holm": np.any(holm(p_values.T) <= alpha, axis=-1),
        "control: any method rejected, uncorrected": np.any(p_values <= alpha, axis=0),
    }
