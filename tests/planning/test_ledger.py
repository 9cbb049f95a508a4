"""The ledger's bytes, on tensors that are counted by hand."""

import torch
from torch import nn

from expert_condenser.planning.ledger import LOGITS, Ledger, Moment

KB = 4 * 256
"""Bytes of 256 numbers in float32."""


def test_what_is_live_is_counted_once_and_until_it_is_gone():
    ledger = Ledger(nn.Linear(1, 1))
    with ledger:
        kept = torch.zeros(256)
        view = kept.view(16, 16)[2:]
        assert ledger.held["activations"] == KB
        other = torch.ones(512)
        del other
        assert ledger.held["activations"] == KB
        del kept
        assert ledger.held["activations"] == KB  # the view holds it
        del view
    assert ledger.held["activations"] == 0
    assert ledger.moments() == [Moment(0, 3 * KB, 0)]


def test_a_phase_of_its_own_and_gradients_beside_it():
    layer = nn.Linear(16, 16, bias=False)
    ledger, inputs = Ledger(layer), torch.ones(16, 16)
    with ledger:
        outputs = layer(inputs)
        ledger.phase = LOGITS
        loss = outputs.sum()
        loss.backward()
    assert ledger.held["gradients"] == KB
    assert max(moment.logits for moment in ledger.moments()) >= 4
    assert ledger.moments()[0].activations == KB  # the outputs, and neither the weight nor the inputs
    assert ledger.moments()[-1].gradients == KB
    ledger.forget()
    assert ledger.moments() == []


def test_without_training_no_gradient_is_counted():
    layer = nn.Linear(16, 16, bias=False).requires_grad_(False)
    ledger, inputs = Ledger(layer), torch.ones(16, 16, requires_grad=True)
    with ledger:
        layer(inputs).sum().backward()
    assert ledger.held["gradients"] == 0
