"""Helpers that several test files share."""

from contextlib import contextmanager

import pytest

from expert_condenser import moe_layers


@contextmanager
def _recorded_routing(model):
    calls, handles = [], []
    for index, layer in enumerate(moe_layers(model)):

        def hook(module, args, output, index=index):
            calls.append((index, *(tensor.detach() for tensor in output)))

        handles.append(layer.router.register_forward_hook(hook))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def recorded_routing():
    """`with recorded_routing(model) as calls`: one `(layer, logits, weights, indices)` per call of a router."""
    return _recorded_routing
