"""Faults for negative controls: with each, a run is refused, or must not equal the one-process run."""

import contextlib
import os

import pytest
import torch.distributed

from expert_condenser.methods import Condenser
from expert_condenser.moe.slices import WriteAgain
from expert_condenser.training import callback


def of_this_process(attachment, collect=callback.collect):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda counts: None)
        return collect(attachment)


@contextlib.contextmanager
def counts_of_one_process():
    """The bias moves by what each process has counted itself, and nobody looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callback, "collect", of_this_process)
        patch.setattr(callback, "check_agreement", lambda attachment, step: None)
        yield


@contextlib.contextmanager
def another_bias_on_one_rank():
    """The second process moves its bias twice."""
    step = Condenser.step
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("RANK") == "1":
            patch.setattr(Condenser, "step", lambda self, counts: [step(self, counts) for _ in range(2)])
        yield


@contextlib.contextmanager
def slices_not_written_again():
    """ESFT computes the backward pass with the experts that the base model has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WriteAgain, "backward", staticmethod(lambda ctx, *gradients: (gradients[0], None)))
        yield


CONTROLS = {
    None: contextlib.nullcontext,
    "counts of one process": counts_of_one_process,
    "another bias on one rank": another_bias_on_one_rank,
    "slices not written again": slices_not_written_again,
}
