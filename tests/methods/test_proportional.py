"""`bias_rule: proportional`: magnitudes are kept, and the bias is led to 0 by the end of the last phase alone."""

import math

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, attach, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import tiny_model
from expert_condenser.training.run import train
from tests.runs import assert_identical, config, interrupted, log_of, make_base

USAGE = torch.tensor([[8, 0, 4, 4, 4, 4, 4, 4], [0, 0, 1, 3, 4, 6, 8, 10], [4, 4, 4, 4, 4, 4, 1, 7]])
OPTIONS = {"bias_rule": "proportional", "bias_step": 0.5, "bias_step_condense": 0.5}


def prepared(name="condenser", phase=None, family="olmoe", **options):
    method = METHODS[name](MethodConfig(**{**OPTIONS, **options}), phase)
    model = tiny_model(family)
    if phase == "condense":
        attach(model, method.routing)
        for layer, bias in zip(moe_layers(model), USAGE.float(), strict=True):
            layer.router.selection_bias.copy_(bias)
    method.prepare(model)
    return method, model


def test_phase_1_is_not_annealed_and_untied_by_magnitude():
    method, model = prepared()
    for _ in range(2):
        method.step(USAGE)  # without a clock
    distance = torch.tanh((USAGE.double() - 4) / 4)
    assert torch.allclose(selection_biases(model).double(), 0.5 * distance * 1.99, rtol=0, atol=1e-6)
    assert method.bias_steps is None, "there are no whole steps to rank by"
    sign, other = prepared(bias_rule=None)
    sign.step(USAGE)
    assert len(selection_biases(other)[1].unique()) == 3
    assert len(selection_biases(model)[1].unique()) == 7, "ties are those of the usage"


def test_the_last_phase_ends_at_zero():
    method, model = prepared(phase="condense")
    assert condensers_of(model)[1] == [0, 1]
    before = selection_biases(model)
    method.now = (1, 2)
    method.step(USAGE)
    first = selection_biases(model)
    # Layer 1 has the condensers 0 and 1, so the mean of the six others is 32 / 6; expert 7 was used 10 times.
    assert first[1, 7].item() == pytest.approx(0.5 * (0.99 * 10 + 0.5 * math.tanh(10 / (32 / 6) - 1)), abs=1e-6)
    assert torch.equal(first[1, :2], before[1, :2]), "condensers keep theirs"
    method.now = (2, 2)
    method.step(USAGE)
    last = selection_biases(model)
    competing = method.competes(USAGE)
    assert (first[competing] != 0).any()
    assert (last[competing] == 0).all()


@pytest.mark.parametrize("name", ["bias_only", "loss_free"])
def test_other_methods_of_a_bias(name):
    method, model = prepared(name, family="mixtral", bias_anneal=False, bias_decay=0.0)
    method.step(USAGE)
    sign = 1 if name == "bias_only" else -1
    expected = sign * 0.5 * torch.tanh((USAGE.double() - 4) / 4)
    assert torch.allclose(selection_biases(model).double(), expected, rtol=0, atol=1e-7)
    annealed, _ = prepared(name)
    with pytest.raises(TrainingError, match="train with MethodCallback"):
        annealed.step(USAGE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias_rule": "sign"}, "bias_rule is 'proportional', or left out"),
        ({"bias_rule": None, "bias_decay": 0.1}, "are of bias_rule 'proportional'"),
        ({"bias_rule": None, "bias_anneal": False}, "are of bias_rule 'proportional'"),
        ({"bias_decay": 1.0}, r"bias_decay is a share in \[0, 1\); got 1.0"),
    ],
)
def test_switches_without_a_meaning(options, message):
    with pytest.raises(TrainingError, match=message):
        METHODS["condenser"].Config(**{**OPTIONS, **options})


def test_a_run_resumes_and_ends_at_zero(tmp_path):
    base, options = make_base(tmp_path), {"num_train_epochs": 2.0, "bias_rule": "proportional"}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "condense", "on_step_begin", 2, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole")
    ranges = [entry["bias_range"] for entry in log_of(tmp_path / "whole")]
    assert ranges[3] > 0.01, "phase 1 ends with a bias"
    assert ranges[-2] > 0
