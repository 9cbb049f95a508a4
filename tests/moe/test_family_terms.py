"""What single families add to the formulas of the others, against plain Python in float64."""

from dataclasses import replace

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.functional.scoring import Scoring, gate_weights, multiply_gain
from expert_condenser.moe.dense_mixture import mix
from expert_condenser.testing import tiny_model

EIGHTHS = torch.tensor([[4.0, 2.0, 1.0, 0.5, 0.5]], dtype=torch.float64).log()
"""Logits whose softmax is 1/2, 1/4, 1/8, 1/16, 1/16."""
NORMALIZED = Scoring(float32=False, normalize=True, scale=2.0)
GAIN = torch.tensor([1.0, 3.0, 5.0, 7.0, 11.0], dtype=torch.float64)
CHOSEN = torch.tensor([[1, 0, 3]])


# A learnt factor on the weights (Gemma 4: one per expert; Inkling: one for all).


def test_a_gain_multiplies_the_weight_of_its_expert_or_every_weight():
    weights = gate_weights(EIGHTHS, CHOSEN, NORMALIZED)
    assert weights[0].tolist() == pytest.approx([2 * 4 / 13, 2 * 8 / 13, 2 * 1 / 13], rel=1e-15)
    expected = [2 * 3 * 4 / 13, 2 * 1 * 8 / 13, 2 * 7 * 1 / 13]
    assert multiply_gain(weights, CHOSEN, GAIN)[0].tolist() == pytest.approx(expected, rel=1e-15)
    assert multiply_gain(weights, CHOSEN, GAIN[2:3])[0].tolist() == [5 * weight for weight in weights[0].tolist()]


def attached(**options):
    """The first router of a Gemma 4 with a policy; its logits are those that a test gives it."""
    router = moe_layers(attach(tiny_model("gemma4_text", num_experts=5, top_k_experts=2, **options), RoutingConfig()))[
        0
    ]
    router = router.router.double()
    router.rule = replace(router.rule, logits=lambda router, hidden: hidden)
    router.per_expert_scale.data = GAIN
    return router


def test_a_gain_weighs_and_does_not_choose():
    router = attached()
    _, weights, indices = router(EIGHTHS)
    assert indices.tolist() == [[0, 1]], "11 times the least is not the largest"
    assert weights[0].tolist() == pytest.approx([1 * 2 / 3, 3 * 1 / 3], rel=1e-6)
    router.condenser_ids = torch.tensor([4])
    probabilities, weights, indices = router(EIGHTHS)
    found = dict(zip(indices[0].tolist(), weights[0].tolist(), strict=True))
    assert found == pytest.approx({4: 11 * 1 / 9, 0: 1 * 8 / 9}, rel=1e-6)
    assert probabilities[0].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16], rel=1e-6)


def test_the_gain_of_the_dense_mixture_is_that_of_every_expert_and_learns_from_it():
    router = attached()
    router.mixer = "lean"
    mix(router, EIGHTHS, torch.ones(1, 2), torch.tensor([[0, 1]]))
    dense, _ = router.mixture
    assert dense[0].tolist() == pytest.approx(
        [g * s / 6 for g, s in zip(GAIN.tolist(), [4, 2, 1, 0.5, 0.5], strict=True)], rel=1e-6
    )
    dense.sum().backward()
    slopes = router.per_expert_scale.grad.tolist()
    assert slopes == pytest.approx([4 / 6, 2 / 6, 1 / 6, 1 / 12, 1 / 12], rel=1e-6), "also of those not chosen"
