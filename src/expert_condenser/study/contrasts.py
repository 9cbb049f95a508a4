"""What a study asks of its runs: contrasts, written down in its file before the runs are.

    contrasts:
      paper: {arm: condenser, against: sft}                         # hypervolume of the fronts over the grid
      control: {arm: condenser, against: two_phase_sft, measure: nll, of: learnt before}
      best of: {arm: recycle, against: [sft, frozen_router]}        # the one with the best mean

Measures: `hypervolume`, of the front over the grid, in percent of the unit square; and of a task or a group (`of`, by
default what is to be learnt), each a mean over the points of the grid: `accuracy` in points, `nll` in nats, `log_nll`,
whose difference is the logarithm of a ratio. Holm's correction is over all contrasts of the file.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expert_condenser.errors import EvaluationError

HYPERVOLUME = "hypervolume"
UNITS = {HYPERVOLUME: "% of the square", "accuracy": "points", "nll": "nats", "log_nll": "log ratio"}
HIGHER_IS_BETTER = {HYPERVOLUME: True, "accuracy": True, "nll": False, "log_nll": False}


class Contrast(NamedTuple):
    """An arm against another one, or against the best of several."""

    name: str
    arm: str
    against: tuple[str, ...]
    measure: str = HYPERVOLUME
    of: str | None = None
    """A task or a group of tasks; None: what is to be learnt."""


def read_contrasts(content: Mapping[str, Any], path: Path) -> tuple[Contrast, ...]:
    """The mapping `contrasts` of a study file; raises `EvaluationError` on a wrong key or measure."""
    found = []
    for name, value in content.items():
        known = [key for key in Contrast._fields if key != "name"]
        if not isinstance(value, dict) or not {*map(str, value)} <= {*known} or not {"arm", "against"} <= {*value}:
            raise EvaluationError(
                f"{path}: a contrast has arm, against, and maybe measure and of; {name} has {value!r}"
            )
        against = value["against"] if isinstance(value["against"], list) else [value["against"]]
        if any(not isinstance(text, str) for text in (*against, *(value[key] for key in value if key != "against"))):
            raise EvaluationError(f"{path}: a contrast names arms, a measure and what it is of; {name} has {value!r}")
        contrast = Contrast(str(name), **{**value, "against": tuple(against)})
        if contrast.measure not in UNITS or not against:
            raise EvaluationError(
                f"{path}: a contrast's measure is one of {', '.join(UNITS)}; got {contrast.measure!r} in {name}"
            )
        if contrast.measure == HYPERVOLUME and contrast.of is not None:
            raise EvaluationError(f"{path}: a hypervolume is of `learn` and `known`; leave `of` out of {name}")
        found.append(contrast)
    return tuple(found)


def check_contrasts(
    contrasts: Sequence[Contrast], arms: Collection[str], scores: Collection[str], grid: bool, path: Path
) -> None:
    """Raise `EvaluationError` on names that are no arms, tasks or groups of the study, and on fronts without a grid."""
    for contrast in contrasts:
        if unknown := [name for name in (contrast.arm, *contrast.against) if name not in arms]:
            raise EvaluationError(
                f"{path}: contrasts are between arms ({', '.join(arms)}); {contrast.name} has {', '.join(unknown)}"
            )
        if contrast.of is not None and contrast.of not in scores:
            raise EvaluationError(
                f"{path}: a contrast is of a task or a group ({', '.join(scores)}); {contrast.name} is of "
                f"{contrast.of!r}"
            )
        if contrast.measure == HYPERVOLUME and not grid:
            raise EvaluationError(f"{path}: {contrast.name} is of fronts over a grid, and the study has no grid")
