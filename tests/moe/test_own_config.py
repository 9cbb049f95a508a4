"""An attached model has a config of its own: a model that shared it stays what it is."""

import json

import pytest
from transformers import PreTrainedConfig

from expert_condenser import RoutingConfig, attach, detach, set_condensers
from expert_condenser.moe.attach import set_top_k
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.guarded_config import CondenserConfig
from expert_condenser.moe.own_types import own_model_class, stock_class
from expert_condenser.testing import tiny_config, tiny_model

PAPER = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")


def sharing(family):
    """Two models that hold one config object."""
    config = tiny_config(family)
    return stock_class(family)(config), stock_class(family)(config)


def configs_in(model):
    """`{(module, attribute): config}` of every config that a module holds."""
    return {
        (name, attribute): value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, PreTrainedConfig)
    }


@pytest.mark.parametrize("family", [*PAPER, "qwen3_vl_moe"])
def test_a_model_that_shared_the_config_stays_what_it_is(family, tmp_path):
    model, other = sharing(family)
    assert model.config is other.config, "they share it"
    before, kind = other.config.to_dict(), type(other.config)
    attach(model, RoutingConfig())
    set_condensers(model, {0: [1]})
    assert isinstance(model.config, CondenserConfig)
    assert type(other.config) is kind
    assert other.config.to_dict() == before
    other.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
    attach(other, RoutingConfig(bias_space="score"))
    assert model.config.condenser["routing"]["bias_space"] == "logit"
    assert model.config.condenser["condensers_per_layer"][0] == 1
    assert other.config.condenser["condensers_per_layer"][0] == 0
    detach(model)
    assert isinstance(other.config, CondenserConfig), "and detaching one leaves the other attached"


@pytest.mark.parametrize("family", PAPER)
def test_another_top_k_is_of_one_model(family):
    model, other = sharing(family)
    before = other.config.to_dict()
    set_top_k(model, 1)
    assert other.config.to_dict() == before
    assert model.config.num_experts_per_tok == 1


@pytest.mark.parametrize("family", PAPER)
def test_two_own_models_with_one_config_note_their_own_condensers(family):
    config = attach(tiny_model(family), RoutingConfig()).config
    first, second = own_model_class(family)(config), own_model_class(family)(config)
    set_condensers(first, {0: [1, 2]})
    assert first.config.condenser["condensers_per_layer"][0] == 2
    assert second.config.condenser["condensers_per_layer"][0] == 0


def parts_of(config):
    """The ids of a config and of the configs in it, at any depth."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    return {id(config)}.union(*map(parts_of, inner))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_follows_to_the_copy(family):
    """One to one: what was one object in two modules is one object after it, and none is left behind."""
    model = tiny_model(family)
    old, parts = configs_in(model), parts_of(model.config)
    attach(model, RoutingConfig())
    new = configs_in(model)
    assert old.keys() == new.keys()
    assert len({(id(old[key]), id(new[key])) for key in old}) == len({id(value) for value in old.values()})
    followed = {key for key in old if id(new[key]) in parts_of(model.config)}
    assert followed == {key for key in old if id(old[key]) in parts}, (
        "some families keep a copy of their own: left alone"
    )
    assert ("", "config") in followed
    assert not parts & parts_of(model.config)
