"""The contrasts and the fronts of a study, as numbers: from the items of its runs, paired over seeds and items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from expert_condenser.comparison.contrasts import MARGIN, Difference, difference_of, with_verdicts
from expert_condenser.comparison.fronts import Screening, hypervolume, kept_at, point, screen
from expert_condenser.comparison.items import Items
from expert_condenser.comparison.statistics import holm
from expert_condenser.study.contrasts import HIGHER_IS_BETTER, HYPERVOLUME, UNITS, Contrast
from expert_condenser.study.gather import Gathered

GAIN = 0.9
"""The part of the baseline's best gain at which arms are asked what they kept."""
ALPHA = 0.05


class Scores:
    """Any measure of any arm per seed: on the items as they are, and for every draw of them."""

    def __init__(self, gathered: Gathered) -> None:
        self.gathered = gathered
        self._found: dict[tuple[str, str, bool], Float[np.ndarray, "B S"]] = {}

    def of(self, arm: str, measure: str, score: str, *, drawn: bool) -> Float[np.ndarray, "B S"]:
        """A measure of an arm; B is 1 without draws, and where nothing is known of single items."""
        key = arm, f"{measure} {score}", drawn
        if key not in self._found:
            compute = self._hypervolume if measure == HYPERVOLUME else self._mean_over_grid(measure, score)
            self._found[key] = compute(arm, drawn)
        return self._found[key]

    def points(self, arm: str, *, drawn: bool = False) -> Float[np.ndarray, "B S P 2"]:
        """What an arm gains and keeps at every point of the grid."""
        study, places = self.gathered.study, self._places(arm)
        task = self._nll(study.learn_tasks, places, drawn)
        old = self._nll(study.known_tasks, places, drawn)
        base = sum(self._items(name, drawn).base_nll() for name in study.known_tasks) / len(study.known_tasks)
        shape = np.broadcast_shapes(task.shape, old.shape, np.shape(base))
        return point(*(np.broadcast_to(each, shape).swapaxes(1, 2) for each in (task, old, base)))

    def _hypervolume(self, arm: str, drawn: bool) -> Float[np.ndarray, "B S"]:
        return 100 * hypervolume(self.points(arm, drawn=drawn))

    def _mean_over_grid(self, measure: str, score: str) -> Any:
        tasks = self.gathered.tasks_of(score)

        def compute(arm: str, drawn: bool) -> Float[np.ndarray, "B S"]:
            places = self._places(arm)
            if measure == "accuracy":
                parts = [self._accuracy(name, drawn)[:, places] for name in tasks]
                return np.asarray(sum(parts) / len(parts)).mean(1)
            nll = self._nll(tasks, places, drawn)
            return np.asarray((np.log(nll) if measure == "log_nll" else nll).mean(1))

        return compute

    def _nll(self, tasks: Sequence[str], places: Sequence[int], drawn: bool) -> Float[np.ndarray, "B P S"]:
        return np.asarray(sum(self._nll_of(name, drawn)[:, places] for name in tasks) / len(tasks))

    def _places(self, arm: str) -> list[int]:
        every = list(self.gathered.design.arms)
        return [every.index(label) for label in self.gathered.labels[arm]]

    @cache  # noqa: B019 -- one object per call of `study tables`, and it holds the draws anyway
    def _nll_of(self, name: str, drawn: bool) -> Float[np.ndarray, "B L S"]:
        return self._items(name, drawn).nll()

    @cache  # noqa: B019 -- as above
    def _accuracy(self, name: str, drawn: bool) -> Float[np.ndarray, "B L S"]:
        return self._items(name, drawn).accuracy()

    @cache  # noqa: B019 -- as above
    def _items(self, name: str, drawn: bool) -> Items:
        """The items of a task; every task has a generator of its own, so that no number depends on the others."""
        labels = self.gathered.design.arms
        results = [[run.tasks[name] for run in self.gathered.runs(label)] for label in labels]
        items = Items(results, self.gathered.base[name])
        if drawn and self.gathered.design.paired_items:
            items.draw(np.random.default_rng(0))
        return items


def rounded(value: Any) -> Any:
    """JSON with nine digits of every number: what is written does not depend on how a machine adds up."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def contrasts_of(gathered: Gathered, scores: Scores) -> list[dict[str, Any]]:
    """Every contrast of the study's file as JSON, with Holm's correction over them."""
    found = [_contrast(gathered, scores, contrast) for contrast in gathered.study.contrasts]
    better = [HIGHER_IS_BETTER[contrast.measure] for contrast in gathered.study.contrasts]
    return [asdict(each) for each in with_verdicts(found, better, ALPHA)]


def _contrast(gathered: Gathered, scores: Scores, contrast: Contrast) -> Difference:
    score = contrast.of or gathered.study.learnt
    sign = 1 if HIGHER_IS_BETTER[contrast.measure] else -1
    means = {arm: sign * scores.of(arm, contrast.measure, score, drawn=False).mean() for arm in contrast.against}
    against = max(means, key=lambda arm: float(means[arm]))
    of = "front" if contrast.measure == HYPERVOLUME else score
    words = contrast.name, contrast.arm, against, contrast.measure, of, UNITS[contrast.measure]
    return _difference(scores, words, score)


def _difference(scores: Scores, words: tuple[str, str, str, str, str, str], score: str) -> Difference:
    _, arm, against, measure, _, _ = words
    own, other = (scores.of(name, measure, score, drawn=False)[0] for name in (arm, against))
    drawn = scores.of(arm, measure, score, drawn=True) - scores.of(against, measure, score, drawn=True)
    return difference_of(words, own, other, drawn if drawn.shape[0] > 1 else None, ALPHA)


def fronts_of(gathered: Gathered, scores: Scores) -> dict[str, Any] | None:
    """The front of every arm as JSON; None where the study has no grid, or an nll is missing."""
    study = gathered.study
    needed = [*study.learn_tasks, *study.known_tasks]
    runs = [run for arm in gathered.design.arms.values() for run in arm.runs.values()]
    known = all(tasks[name].nll is not None for tasks in (gathered.base, *(r.tasks for r in runs)) for name in needed)
    if not study.grid or not study.known_tasks or not known:
        return None
    points = {arm: scores.points(arm)[0].swapaxes(0, 1) for arm in gathered.labels}
    screening = screen(points, gathered.baseline) if len(gathered.design.seeds) > 1 else {}
    base = gathered.base_nll(study.learnt)
    assert base is not None
    best = points[gathered.baseline].mean(1)[:, 0].max()
    target = float(np.exp(-base) + GAIN * (best - np.exp(-base)))
    return {
        "against": gathered.baseline,
        "margin": MARGIN,
        "base": [float(np.exp(-base)), 1.0],
        "target": target,
        "without_items": [name for name in needed if any(run.tasks[name].nll_items is None for run in runs)],
        "dropped": [arm for arm, found in screening.items() if found.dropped],
        "arms": _corrected({arm: _front(gathered, scores, arm, points, target, screening) for arm in points}),
    }


def _corrected(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fronts with Holm's correction over all arms that are compared with the baseline."""
    raw = [math.nan if found["p"] is None else found["p"] for found in arms.values()]
    adjusted = holm(np.array(raw))
    known = [None if np.isnan(p) else float(p) for p in adjusted]
    return {arm: {**found, "holm_p": p} for (arm, found), p in zip(arms.items(), known, strict=True)}


def _front(
    gathered: Gathered,
    scores: Scores,
    arm: str,
    points: Mapping[str, Float[np.ndarray, "P S 2"]],
    target: float,
    screening: Mapping[str, Screening],
) -> dict[str, Any]:
    words = arm, arm, gathered.baseline, HYPERVOLUME, "front", UNITS[HYPERVOLUME]
    found = _difference(scores, words, gathered.study.learnt)
    rule = screening.get(arm)
    return {
        "labels": gathered.labels[arm],
        "points": points[arm].mean(1).tolist(),
        "scores": found.scores[0],
        "difference": None if arm == gathered.baseline else found.difference,
        "interval": None if found.interval is None else asdict(found.interval),
        "p": None if arm == gathered.baseline else found.p,
        "item_share": found.item_share,
        "kept": kept_at(points[arm].mean(1), target),
        "kept_by_seed": [kept_at(points[arm][:, seed], target) for seed in range(points[arm].shape[1])],
        "dominated": rule.dominated if rule else None,
        "spread": list(rule.spread) if rule else None,
    }
