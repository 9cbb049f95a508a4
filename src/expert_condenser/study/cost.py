"""What a run costs: seconds, floating-point operations of a step, peak memory."""

import resource
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

COUNTED_STEP = 1
"""The step, from 0, whose operations are counted."""


class FlopCounter(TrainerCallback):
    """Counts the matrix products of one optimizer step of every phase, forward and backward.

    On a CPU, those inside attention (scores times values) are not seen.
    """

    def __init__(self) -> None:
        self.per_step: list[int] = []
        self._mode: FlopCounterMode | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        if state.global_step == COUNTED_STEP:
            self._mode = FlopCounterMode(display=False, custom_mapping=_GROUPED)
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop counting."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.per_step.append(self._mode.get_total_flops())
            self._mode = None


def peak_memory() -> float:
    """Of this process so far, in MB: that of the device where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _grouped_flops(left: torch.Size, right: torch.Size, *rest: Any, **kwargs: Any) -> int:
    """Of `_grouped_mm`: `(T, K) x (E, K, N)`, or `(M, T) x (T, N)` summed within groups of `T`."""
    return 2 * left[0] * left[1] * right[-1]


# The operator that `grouped_mm` experts run: without a formula of ours FlopCounterMode counts it as nothing.
_GROUPED = {torch.ops.aten._grouped_mm: _grouped_flops} if hasattr(torch.ops.aten, "_grouped_mm") else {}
