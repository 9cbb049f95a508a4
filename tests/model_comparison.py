"""What the tests of attaching compare: outputs and gradients of two models, bit for bit."""

import torch

from expert_condenser import moe_layers


def assert_same(first, second):
    """Two pairs of logits and `{parameter name: gradient}`."""
    assert torch.equal(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name


def set_bias(model, expert, value):
    """The selection bias of one expert, in every layer."""
    for layer in moe_layers(model):
        layer.router.selection_bias[expert] = value
