"""Faults for negative controls: with each, a run must not equal the one-process run."""

import contextlib
import os

import pytest
import torch.distributed

from expert_condenser.methods import Condenser
from expert_condenser.training import usage


@contextlib.contextmanager
def counts_of_one_process():
    """The bias moves by what each process has counted itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage.torch.distributed, "is_initialized", lambda: False)
        yield


@contextlib.contextmanager
def another_bias_on_one_rank():
    """The second process moves its bias by twice the step."""
    with pytest.MonkeyPatch.context() as patch:
        step = Condenser.step
        twice = lambda self, counts: [step(self, counts) for _ in range(2)]  # noqa: E731
        if os.environ.get("RANK") == "1":
            patch.setattr(Condenser, "step", twice)
        yield


CONTROLS = {
    None: contextlib.nullcontext,
    "counts of one process": counts_of_one_process,
    "another bias on one rank": another_bias_on_one_rank,
}
