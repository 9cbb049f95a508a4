"""One learning-rate schedule over all phases of a run: a later phase goes on where the one before ended."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from expert_condenser.errors import TrainingError


class Stretch(NamedTuple):
    """Which of equally long phases this one is, and how many share the schedule."""

    position: int = 0
    phases: int = 1


WHOLE = Stretch()
"""A schedule of its own."""


def continued(scheduler: LRScheduler, optimizer: torch.optim.Optimizer, skipped: int) -> LRScheduler:
    """A schedule as it is after `skipped` steps, for an optimizer that has taken none.

    Raises `TrainingError` where the schedule is no function of the step alone.
    """
    if type(scheduler) is not LambdaLR:
        raise TrainingError(
            f"one_schedule goes on in the middle of a schedule that is a function of the step; "
            f"{type(scheduler).__name__} is none. Take another lr_scheduler_type, or leave one_schedule out."
        )
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    return LambdaLR(optimizer, [_later(factor, skipped) for factor in scheduler.lr_lambdas])


def _later(factor: Callable[[int], float], skipped: int) -> Callable[[int], float]:
    return lambda step: factor(step + skipped)
