"""Gain against forgetting: the area that a method's front dominates, what it keeps, and what is not worth a front.

A point is of one learning rate: (exp(-task nll), exp(-rise of the old nll)), both in [0, 1], both better when higher.
A method's *front* are its points that no other point of it dominates. Letters: P points, R any leading axes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from expert_condenser.errors import EvaluationError

SPREADS = 2.0
"""By how many standard deviations a point has to be dominated to be given up."""


def point(
    task_nll: Float[np.ndarray, "*R"], old_nll: Float[np.ndarray, "*R"], base_nll: Float[np.ndarray, "*R"]
) -> Float[np.ndarray, "*R 2"]:
    """(exp(-task nll), min(1, exp(-(old nll - base nll)))): what is better than the base counts as kept, no more."""
    return np.stack([np.exp(-task_nll), np.minimum(1.0, np.exp(base_nll - old_nll))], axis=-1)


def hypervolume(points: Float[np.ndarray, "*R P 2"]) -> Float[np.ndarray, "*R"]:
    """Area of the unit square that some point dominates, with the reference point (0, 0).

    With x falling, the sum over k of (x_k - x_(k+1)) max(y_1 ... y_k), x_(P+1) = 0. Raises `EvaluationError` on points
    outside of the square.
    """
    if points.size and not (points.min() >= 0 and points.max() <= 1):  # in this direction, so that nan is refused
        raise EvaluationError(
            f"a front is of points in the unit square; got values from {points.min():g} to {points.max():g}"
        )
    order = np.argsort(-points[..., 0], axis=-1)
    x = np.take_along_axis(points[..., 0], order, axis=-1)
    highest = np.maximum.accumulate(np.take_along_axis(points[..., 1], order, axis=-1), axis=-1)
    widths = x - np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)
    return np.asarray((widths * highest).sum(-1))


def is_dominated(one: Float[np.ndarray, " 2"], points: Float[np.ndarray, "P 2"]) -> bool:
    """Whether some point is at least as high in both, and higher in one: an equal point dominates nothing."""
    return bool(((points >= one).all(-1) & (points > one).any(-1)).any())


def front(points: Float[np.ndarray, "P 2"]) -> list[int]:
    """Where the points stand that no other one dominates, by falling y; of equal ones the first."""
    kept: list[int] = []
    for index, one in enumerate(points):
        if not is_dominated(one, points) and not any((points[other] == one).all() for other in kept):
            kept.append(index)
    return sorted(kept, key=lambda index: float(points[index, 0]))


def kept_at(points: Float[np.ndarray, "P 2"], x: float) -> float | None:
    """The y of the front at an x, straight between its points; left of them that of the first. None beyond the last.

    Between two learning rates there is another one, so the straight line stands for what a run there would give.
    """
    on_front = points[front(points)]
    if x > on_front[-1, 0]:
        return None
    return float(np.interp(x, on_front[:, 0], on_front[:, 1]))


class Screening(NamedTuple):
    """What the rule says of one arm."""

    dropped: bool
    dominated: list[bool]
    """For every point of the arm, in the order of the grid."""
    spread: tuple[float, float]
    """Standard deviations of the arm's points over seeds, pooled over the grid."""


def screen(points: Mapping[str, Float[np.ndarray, "P S 2"]], against: str) -> dict[str, Screening]:
    """Which arms are dominated by the front of the arm `against` by more than two of their sd at every learning rate.

    A point is dominated by so much if, moved up by `SPREADS` sd in both directions, it still is by a point of the
    front; means over seeds are compared. The sd over seeds is pooled over the arm's points (root mean square), since
    two seeds say little of one. Raises `EvaluationError` with one seed, which has no sd.
    """
    if any(arm.shape[1] < 2 for arm in points.values()):
        raise EvaluationError("screening needs two seeds of every arm, for their standard deviation; run more seeds")
    reference = points[against].mean(axis=1)
    found = {}
    for name, arm in points.items():
        spread = np.sqrt(arm.var(axis=1, ddof=1).mean(axis=0))
        dominated = [is_dominated(mean + SPREADS * spread, reference) for mean in arm.mean(axis=1)]
        found[name] = Screening(all(dominated), dominated, (float(spread[0]), float(spread[1])))
    return found
