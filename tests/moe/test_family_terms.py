"""What single families add to the formulas of the others, against plain Python in float64."""

from dataclasses import replace

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.functional.routing import choose_experts, mass_usage, route
from expert_condenser.functional.scoring import Scoring, gate_weights, mixture_weights, multiply_gain
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
    model = attach(tiny_model("gemma4_text", num_experts=5, top_k_experts=2, **options), RoutingConfig())
    router = moe_layers(model)[0].router.double()
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


# Shared experts that are weighed together with the chosen (Inkling).

ODDS = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.03125, 0.5, 0.25]], dtype=torch.float64).logit()
"""Logits whose sigmoids are these: five experts to choose from, and two shared ones."""
WITH_SHARED = Scoring(function="sigmoid", float32=False, in_logs=True, normalize=True, num_shared=2, scale=2.0)
NONE = torch.zeros(0, dtype=torch.int64)


def test_shared_experts_keep_their_part_of_the_sum_whoever_is_chosen():
    """(1/4 + 1/2) of the chosen and (1/2 + 1/4) of the shared: the sum is 3/2; with a condenser of 1/16, 21/16."""
    weights, indices = route(ODDS, torch.zeros(5), NONE, top_k=2, scoring=WITH_SHARED)
    assert indices.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([2 * s / (3 / 2) for s in (1 / 2, 1 / 4, 1 / 2, 1 / 4)], rel=1e-14)
    weights, indices = route(ODDS, torch.zeros(5), torch.tensor([3]), top_k=2, scoring=WITH_SHARED)
    assert sorted(indices[0].tolist()) == [0, 3]
    found = dict(zip(indices[0].tolist(), weights[0, :2].tolist(), strict=True))
    assert found == pytest.approx({0: 2 * (1 / 2) / (21 / 16), 3: 2 * (1 / 16) / (21 / 16)}, rel=1e-14)
    assert weights[0, 2:].tolist() == pytest.approx([2 * (1 / 2) / (21 / 16), 2 * (1 / 4) / (21 / 16)], rel=1e-14)
    apart, _ = route(ODDS[:, :5], torch.zeros(5), NONE, top_k=2, scoring=replace(WITH_SHARED, num_shared=0))
    assert apart[0].tolist() == pytest.approx([2 * 2 / 3, 2 * 1 / 3], rel=1e-14), "control: without shared experts"


def test_a_shared_expert_is_never_chosen_and_has_no_usage():
    indices = choose_experts(ODDS, torch.zeros(5), NONE, top_k=5, scoring=WITH_SHARED)
    assert sorted(indices[0].tolist()) == [0, 1, 2, 3, 4]
    usage = mass_usage(ODDS, scoring=WITH_SHARED)
    assert usage.tolist() == pytest.approx([s / 31 for s in (16, 8, 4, 2, 1)], rel=1e-14)


def test_the_dense_mixture_divides_by_the_chosen_and_the_shared():
    dense = mixture_weights(ODDS, torch.tensor([[0, 1]]), WITH_SHARED)
    assert dense.shape == (1, 7)
    expected = [2 * s / (3 / 2) for s in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 2, 1 / 4)]
    assert dense[0].tolist() == pytest.approx(expected, rel=1e-14)


def test_a_router_hands_the_shared_weights_on_apart_times_its_factor():
    model = attach(tiny_model("inkling_text"), RoutingConfig())
    router = moe_layers(model)[0].router.double()
    router.rule = replace(router.rule, logits=lambda router, hidden: hidden)
    router.scoring, router.e_score_correction_bias = replace(WITH_SHARED, scale=1.0), torch.zeros(8)
    router.global_scale.data.fill_(3.0)
    logits = torch.cat([ODDS[:, :5], ODDS[:, :3] - 50, ODDS[:, 5:]], dim=-1)
    returned, weights, indices, shared = router(logits)
    assert torch.equal(returned, logits[:, :8])
    assert sorted(indices[0].tolist()) == [0, 1, 2]
    total = 1 / 2 + 1 / 4 + 1 / 8 + 1 / 2 + 1 / 4
    expected = {i: 3 * s / total for i, s in enumerate((1 / 2, 1 / 4, 1 / 8))}
    assert dict(zip(indices[0].tolist(), weights[0].tolist(), strict=True)) == pytest.approx(expected, rel=1e-6)
    assert shared[0].tolist() == pytest.approx([3 / 2 / total, 3 / 4 / total], rel=1e-6)
