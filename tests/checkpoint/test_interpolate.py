"""Weights between a base and what was tuned from it: exact at both ends, by hand in between, and as a command."""

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.interpolate import interpolate, move_towards
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import CheckpointError
from expert_condenser.testing import tiny_model
from expert_condenser.training.run import train
from tests.runs import config, make_base, read


def test_by_hand():
    base = {"a": torch.tensor([1.0, -2.0], dtype=torch.float64), "n": torch.tensor([3])}
    tuned = {
        "a": torch.tensor([2.0, 2.0], dtype=torch.float64),
        "n": torch.tensor([4]),
        "gate.selection_bias": torch.tensor([0.5, -1.0]),
        "gate.recycled_offset": torch.tensor([2.0]),
        "gate.condenser_ids": torch.tensor([7, 1]),
    }
    found = interpolate(base, tuned, 0.25)
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [1.25, -1.0],
        "n": [4],
        "gate.selection_bias": [0.125, -0.25],
        "gate.recycled_offset": [0.5],
        "gate.condenser_ids": [7, 1],
    }
    assert [found[name].dtype for name in tuned] == [value.dtype for value in tuned.values()]


def attached(family, budget="shared"):
    model = attach(tiny_model(family, seed=1), RoutingConfig(budget=budget))
    set_condensers(model, {0: [1, 6]})
    moe_layers(model)[0].router.selection_bias.fill_(0.5)
    return model


@pytest.mark.parametrize("budget", ["shared", "recycle"])
@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
def test_the_ends_are_the_models_bit_for_bit(family, budget):
    base, tuned = tiny_model(family), attached(family, budget).state_dict()
    one = move_towards(base, attached(family, budget), 1.0).state_dict()
    assert all(torch.equal(one[name], value) for name, value in tuned.items())
    zero = move_towards(base, attached(family, budget), 0.0).state_dict()
    assert all(torch.equal(zero[name], value) for name, value in base.state_dict().items())
    assert not zero[f"{moe_layers(base)[0].name}.selection_bias"].any()
    half = move_towards(base, attached(family, budget), 0.5).state_dict()
    for name, value in base.state_dict().items():
        assert torch.allclose(half[name], (value + tuned[name]) / 2, rtol=0, atol=1e-6)
    assert any((half[name] - value).abs().max() > 1e-3 for name, value in base.state_dict().items())


def test_half_precision_is_summed_in_float32():
    base, tuned = {"a": torch.tensor([1.0]).bfloat16()}, {"a": torch.tensor([1.0078125]).bfloat16()}
    assert interpolate(base, tuned, 0.75)["a"].item() == 1.0078125
    assert interpolate(base, tuned, 0.25)["a"].item() == 1.0


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_a_share(alpha):
    with pytest.raises(CheckpointError, match="alpha is the share"):
        interpolate({}, {}, alpha)


def test_models_of_other_shapes():
    one = torch.zeros(1)
    for base, tuned in (({"a": one}, {"a": one, "b": one}), ({"a": one, "b": one}, {"a": one})):
        with pytest.raises(CheckpointError, match="these differ in b"):
            interpolate(base, tuned, 0.5)
    with pytest.raises(CheckpointError, match="these differ in a"):
        interpolate({"a": one}, {"a": torch.zeros(2)}, 0.5)


def test_the_command(tmp_path, capsys):
    base = make_base(tmp_path)
    train(config(base, tmp_path / "run", num_train_epochs=2.0))
    start, tuned = str(base / "model"), str(tmp_path / "run" / "model")
    words = ["interpolate", "--model", tuned, "--base", start, "--output_dir", str(tmp_path / "half")]
    assert main([*words, "--alpha", "1.5"]) == 2
    assert "--alpha is the share of the tuned model" in capsys.readouterr().err
    assert main([*words, "--alpha", "0.5"]) == 0
    found, first, last = (load_model(path).state_dict() for path in (tmp_path / "half", start, tuned))
    assert all(torch.equal(found[name], value) for name, value in interpolate(first, last, 0.5).items())
    assert read(tmp_path / "half" / "provenance.json")["interpolated"]["alpha"] == 0.5
    assert main([*words, "--alpha", "0.5"]) == 2
    assert "not there yet" in capsys.readouterr().err
