"""`loss_free` and `bias_only`: one step of the rule in every layer per update, and nothing else."""

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, attach, moe_layers
from expert_condenser.errors import RoutingError, TrainingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import tiny_model

GAMMA = 0.25
USAGE = torch.tensor([[9, 0, 3, 3, 5, 1, 3, 0], [1, 2, 3, 4, 5, 6, 7, 8], [3] * 8])
"""Means 3, 4.5 and 3: busy and rare experts, some exactly at the mean, and a layer of equals."""
DIRECTION = torch.tensor([[1, -1, 0, 0, 1, -1, 0, -1], [-1, -1, -1, -1, 1, 1, 1, 1], [0] * 8]).float()
SIGN = {"bias_only": 1.0, "loss_free": -1.0}
both = pytest.mark.parametrize("name", SIGN)


def prepared(name, **options):
    method, model = METHODS[name](MethodConfig(**{"bias_step": GAMMA, **options})), tiny_model()
    method.prepare(model)
    return method, model


@both
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_busy_and_rare_experts_move_by_gamma_exactly(name, dtype):
    method, model = prepared(name)
    before = {key: value.clone() for key, value in model.state_dict().items() if "selection_bias" not in key}
    for updates in (1, 2):
        method.step(USAGE.to(dtype))
        assert torch.equal(selection_biases(model), updates * SIGN[name] * GAMMA * DIRECTION)
    method.step(USAGE.max() - USAGE.to(dtype))
    assert torch.equal(selection_biases(model), SIGN[name] * GAMMA * DIRECTION), "mirrored usage takes a step back"
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@both
def test_the_published_step_is_not_rounded_away_in_a_bfloat16_model(name):
    method, model = prepared(name, bias_step=1e-4)
    model.to(torch.bfloat16)
    for _ in range(300):
        method.step(USAGE)
    assert torch.allclose(selection_biases(model), SIGN[name] * 300 * 1e-4 * DIRECTION, atol=1e-6)


@both
@pytest.mark.parametrize("trains", [True, False])
def test_an_update_is_no_part_of_the_graph(name, trains):
    method, model = prepared(name)
    with torch.set_grad_enabled(trains):
        method.step(USAGE)
    assert not any(layer.router.selection_bias.requires_grad for layer in moe_layers(model))


def test_center_and_clip():
    method, model = prepared("bias_only", bias_center="mean")
    method.step(USAGE)
    expected = GAMMA * (DIRECTION - DIRECTION.mean(dim=1, keepdim=True))
    assert torch.equal(selection_biases(model), expected)
    method, model = prepared("bias_only", bias_clip=0.375)
    for _ in range(3):
        method.step(USAGE)
    assert torch.equal(selection_biases(model), 0.375 * DIRECTION)


def test_bias_range_is_the_mean_over_layers():
    method, _ = prepared("bias_only")
    assert method.metrics() == {"bias_range": 0.0}
    method.step(USAGE)
    assert method.metrics() == {"bias_range": pytest.approx((2 * GAMMA + 2 * GAMMA + 0) / 3)}


@both
def test_there_are_no_condensers(name):
    method, model = prepared(name)
    method.step(USAGE)
    assert not any(condensers_of(model).values())


def test_switches_reach_the_routers_and_another_routing_is_refused():
    method, model = prepared("bias_only", bias_space="score", usage="mass")
    assert moe_layers(model)[0].router.policy == RoutingConfig(bias_space="score", usage="mass")
    with pytest.raises(TrainingError, match=r"(?s)keeps the routing.*score.*asked for.*logit"):
        METHODS["bias_only"](MethodConfig()).prepare(model)
    counted = attach(tiny_model())
    with pytest.raises(TrainingError, match="keeps the routing that it was trained with: None"):
        method.prepare(counted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias_clip": 0.0}, "bias_clip is a positive bound"),
        ({"bias_in_weights": True, "bias_space": "score"}, "bias_in_weights"),
    ],
)
def test_bad_switches(options, message):
    with pytest.raises(RoutingError, match=message):
        prepared("bias_only", **options)
