"""Numbers among TRL's options that have no meaning, as an error before anything is loaded.

TRL and transformers take them, and stop later with words of their own, or train something else: with `max_steps: 0` by
epochs.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from expert_condenser.errors import TrainingError


class Range(NamedTuple):
    """Which numbers an option may be."""

    rule: str
    holds: Callable[[float], bool]


_AT_LEAST_1 = Range("at least 1", lambda n: 1 <= n < inf)
_NOT_NEGATIVE = Range("a number from 0 on", lambda n: 0 <= n < inf)
_ABOVE_0 = Range("a number above 0", lambda n: 0 < n < inf)
_BELOW_1 = Range("from 0 on and below 1", lambda n: 0 <= n < 1)

RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _AT_LEAST_1),
    **dict.fromkeys(("gradient_accumulation_steps", "max_length", "save_total_limit", "ddp_timeout"), _AT_LEAST_1),
    **dict.fromkeys(("save_steps", "eval_steps", "logging_steps", "adam_epsilon", "num_train_epochs"), _ABOVE_0),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "dataloader_num_workers"), _NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _BELOW_1),
    "max_steps": Range("at least 1, or -1 where num_train_epochs says how long", lambda n: n == -1 or 1 <= n < inf),
    "seed": Range("from 0 on and below 2^32", lambda n: 0 <= n < 2**32),
}
"""By option; one that is not set is left to TRL."""


def check_ranges(options: Any) -> None:
    """Raise `TrainingError` on the first number that is out of its range."""
    for name, allowed in RANGES.items():
        value = getattr(options, name)
        if isinstance(value, int | float) and not allowed.holds(value):
            raise TrainingError(f"{name} is {allowed.rule}; got {value}")
