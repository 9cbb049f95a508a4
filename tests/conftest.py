"""Helpers that several test files share."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager

import pytest
import torch

# Before anything imports `datasets`: tests, and the processes that they start, leave nothing in the user's cache.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

# Behind `&` a shell ignores SIGINT, which would hold for all processes that tests start and then interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from expert_condenser import moe_layers  # noqa: E402
from expert_condenser.moe.choices import on_choice  # noqa: E402
from tests.slow import slow_tests  # noqa: E402

# With several threads, stock transformers is not repeatable to the bit: the backward of `batched_mm` sums in the order
# in which threads arrive. One thread is also faster for models of this size.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@contextmanager
def _recorded_routing(model):
    calls, stops = [], []
    for index, layer in enumerate(moe_layers(model)):

        def heard(choice, index=index):
            calls.append((index, *(tensor.detach() for tensor in choice[:3])))

        stops.append(on_choice(layer, heard))
    try:
        yield calls
    finally:
        for stop in stops:
            stop()


@pytest.fixture
def recorded_routing():
    """`with recorded_routing(model) as calls`: one `(layer, logits, weights, indices)` per call of a router."""
    return _recorded_routing


@pytest.hookimpl(tryfirst=True)  # before `-m` and `-k` select
def pytest_collection_modifyitems(config, items):
    whole = not any("::" in argument for argument in config.args) and not config.getoption("lf", default=False)
    slow = slow_tests([_name(item) for item in items], whole)
    for item in items:
        if _name(item) in slow:
            item.add_marker("slow")


def pytest_collection_finish():
    gc.freeze()  # what imports left need not be walked at every collection: the trainer asks for full ones


def _name(item):
    return item.nodeid.removeprefix("tests/")
