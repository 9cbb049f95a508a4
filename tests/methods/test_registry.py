"""What holds for every method in the table: its description, its options, and its verbs."""

import json
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import nn

from expert_condenser import METHODS, MethodConfig, moe_layers
from expert_condenser.errors import TrainingError, UnsupportedModelError
from expert_condenser.methods import Method
from expert_condenser.methods.esft import Esft, ExpertConfig
from expert_condenser.methods.smt import Smt
from expert_condenser.testing import tiny_batch, tiny_model

every_method = pytest.mark.parametrize("name", METHODS)
USAGE = torch.tensor([[9, 0, 3, 3, 7, 1, 3, 4]] * 3)


def made(name, phase=None, **options):
    """A method; ESFT with experts and SMT with blocks that were chosen for it."""
    options = {"smt_block": 8, **options} if name == "smt" else options
    method = METHODS[name](MethodConfig(**options), phase)
    if isinstance(method, Esft):
        method.chosen = ExpertConfig({"0": [1, 5], "1": [0], "2": [7, 3, 2]})
    if isinstance(method, Smt):
        method.chosen = {"model.layers.1.self_attn.k_proj": [(1, 0), (3, 2)]}
    return method


def prepared(name, phase=None, **options):
    method, model = made(name, phase, **options), tiny_model()
    method.prepare(model)
    return method, model


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch()).logits


def test_the_table():
    rows = ["sft", "sft_aux", "frozen_router", "loss_free", "bias_only", "esft_token", "esft_gate", "densemixer"]
    rows += ["smt", "router_only"]
    assert list(METHODS) == [*rows, "condenser"]
    assert METHODS["condenser"].phases == ("sparsify", "condense")
    assert all(METHODS[name].phases == ("train",) for name in rows)
    options = {name: set(method.options()) for name, method in METHODS.items()}
    assert options["loss_free"] == options["bias_only"] < options["condenser"]
    assert set().union(*options.values()) == {f.name for f in fields(MethodConfig)}


def test_an_option_is_the_same_thing_in_every_method():
    for name in (f.name for f in fields(MethodConfig)):
        found = [f for method in METHODS.values() for f in fields(method.Config) if f.name == name]
        assert len({(repr(f.default), f.type, f.metadata["help"]) for f in found}) == 1, name


@every_method
def test_options_are_frozen_and_checked_where_they_are_made(name):
    config = METHODS[name].Config()
    for option in METHODS[name].options():
        with pytest.raises(FrozenInstanceError):
            setattr(config, option, None)
    assert METHODS[name](config).config is config
    assert METHODS[name](MethodConfig()).config == METHODS[name]().config == config


@every_method
def test_a_method_describes_itself(name):
    method = METHODS[name]
    assert issubclass(method, Method)
    assert method.name == name
    for text in (method.summary, method.paper, method.trainable):
        assert text
        assert "\n" not in text
    assert method.router_aux_loss_coef == 0.0
    assert method().phase == method.phases[0]
    with pytest.raises(TrainingError, match=rf"{name} has the phases {', '.join(method.phases)}; got 'other'"):
        method(phase="other")


@every_method
def test_the_verbs(name):
    method, model = prepared(name)
    assert torch.equal(logits_of(model), logits_of(tiny_model())), "before the first step nothing has changed"
    method.step(USAGE)
    files = {"esft_token": {"expert_cfg.json"}, "esft_gate": {"expert_cfg.json"}, "smt": {"smt_blocks.json"}}
    assert json.loads(json.dumps(method.artifacts(model))).keys() == files.get(name, set())
    metrics = method.metrics()
    assert all(isinstance(value, float) for value in metrics.values())
    state = json.loads(json.dumps(method.state_dict()))
    assert (state["method"], state["phase"]) == (name, method.phases[0])
    other, _ = prepared(name)
    other.load_state_dict(state)
    assert other.state_dict() == method.state_dict()


@every_method
def test_a_second_prepare_keeps_the_router_state(name):
    method, model = prepared(name)
    method.step(USAGE)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    made(name).prepare(model)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("own", "other"), [(a, b) for a in METHODS for b in METHODS if a != b])
def test_the_state_of_another_method_is_refused(own, other):
    state = METHODS[other]().state_dict()
    with pytest.raises(TrainingError, match=rf"(?s){own}.*{other}"):
        METHODS[own]().load_state_dict(state)


@every_method
def test_a_model_without_experts_is_refused(name):
    with pytest.raises(UnsupportedModelError, match="Linear"):
        METHODS[name]().prepare(nn.Linear(3, 2))


def test_sft_leaves_model_and_routing_as_they_are():
    method, model = prepared("sft")
    stock = tiny_model()
    method.step(USAGE)
    assert type(model) is type(stock)
    assert type(model.config) is type(stock.config)
    assert model.state_dict().keys() == stock.state_dict().keys()
    assert method.metrics() == {}
    model.train()(input_ids=tiny_batch(2, 5))
    assert [int(layer.router.counter.counts.sum()) for layer in moe_layers(model)] == [2 * 5 * 3] * 3
