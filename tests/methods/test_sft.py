"""`sft` and `frozen_router`: the number of experts per token, and routers that stand still."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from expert_condenser import METHODS, MethodConfig, moe_layers
from expert_condenser.errors import RoutingError, TrainingError
from expert_condenser.moe.parameters import parameter_groups
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model
from tests.finetune import finetune

TOP_K = 5
TOKENS = 3 * 7


def prepared(name="olmoe", **options):
    model = tiny_model(name)
    METHODS["sft"](MethodConfig(**options)).prepare(model)
    return model


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=tiny_batch(3, 7)).logits


def counts_of(model):
    model.train()(input_ids=tiny_batch(3, 7))
    return [int(layer.router.counter.counts.sum()) for layer in moe_layers(model)]


# Experts per token.


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_top_k_is_the_stock_model_with_that_many_experts(name, tmp_path):
    model, stock = prepared(name, top_k=TOP_K), tiny_model(name, num_experts_per_tok=TOP_K)
    assert model.config.num_experts_per_tok == TOP_K
    assert [layer.top_k for layer in moe_layers(model)] == [TOP_K] * len(moe_layers(model))
    assert torch.equal(logits_of(model), logits_of(stock))
    assert not torch.equal(logits_of(model), logits_of(tiny_model(name)))
    assert counts_of(model) == [TOKENS * TOP_K] * len(moe_layers(model))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_experts_per_tok"] == TOP_K
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(stock)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_without_top_k_a_model_keeps_its_own():
    model = prepared()
    assert model.config.num_experts_per_tok == 3
    assert counts_of(model) == [TOKENS * 3] * 3
    assert torch.equal(logits_of(model), logits_of(tiny_model()))


def test_a_second_prepare_keeps_top_k():
    model = prepared(top_k=TOP_K)
    METHODS["sft"](MethodConfig(top_k=TOP_K)).prepare(model)
    assert counts_of(model) == [TOKENS * TOP_K] * 3


@pytest.mark.parametrize("top_k", [1, 8])
def test_the_bounds_of_top_k(top_k):
    assert counts_of(prepared(top_k=top_k)) == [TOKENS * top_k] * 3


def test_more_experts_than_there_are():
    model = tiny_model()
    with pytest.raises(RoutingError, match="top_k is a number of experts that a token may choose, 1 to 8; got 9"):
        METHODS["sft"](MethodConfig(top_k=9)).prepare(model)
    assert model.config.num_experts_per_tok == 3
    assert torch.equal(logits_of(model), logits_of(tiny_model()))


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_experts(top_k):
    with pytest.raises(TrainingError, match=f"top_k is a number of experts per token, at least 1; got {top_k}"):
        METHODS["sft"](MethodConfig(top_k=top_k))


def test_training_with_top_k_counts_that_many(tmp_path):
    usage = {top_k: finetune(tmp_path / str(top_k), "sft", model=model_of(top_k)).usage for top_k in (3, TOP_K)}
    tokens = [int(counts[0].sum()) // 3 for counts in usage[3]]
    assert [int(counts[0].sum()) for counts in usage[TOP_K]] == [TOP_K * count for count in tokens]


def model_of(top_k):
    return prepared(top_k=top_k)


# Routers.


def moved(name, outcome):
    fresh = tiny_model(name)
    groups = parameter_groups(fresh, moe_layers(fresh))
    still = {key for key, value in fresh.named_parameters() if torch.equal(outcome.weights[key], value)}
    return groups, still


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss"])
def test_frozen_routers_stand_still_and_all_else_moves(name, tmp_path):
    """Also against weight decay, which moves what has no gradient."""
    options = {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-2}
    groups, still = moved(name, finetune(tmp_path / "frozen", "frozen_router", model=tiny_model(name), **options))
    assert still == {key for key, group in groups.items() if group == "router"}
    _, still = moved(name, finetune(tmp_path / "sft", "sft", model=tiny_model(name), **options))
    assert still == set(), "control: in plain fine-tuning the routers move as well"


@pytest.mark.parametrize("name", ["sft", "frozen_router"])
@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
def test_what_trains(name, family):
    model = tiny_model(family)
    METHODS[name]().prepare(model)
    groups = parameter_groups(model, moe_layers(model))
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen == ({key for key, group in groups.items() if group == "router"} if name == "frozen_router" else set())


def test_sft_with_frozen_routers_is_frozen_router(tmp_path):
    model = tiny_model()
    METHODS["sft"](MethodConfig(router="freeze")).prepare(model)
    frozen = finetune(tmp_path / "frozen", "frozen_router")
    assert finetune(tmp_path / "option", "sft", model=model).largest_difference(frozen) == 0.0
    assert finetune(tmp_path / "sft", "sft").largest_difference(frozen) > 1e-5


def test_other_modes_of_the_router():
    with pytest.raises(TrainingError, match="router is one of train, freeze, lora; got 'thaw'"):
        METHODS["sft"](MethodConfig(router="thaw"))
    with pytest.raises(TrainingError, match="router='lora' trains adapters on the routers, and this model has none"):
        prepared(router="lora")


def test_top_k_of_a_router_that_reads_it_from_the_config():
    """Gemma 4's: it has no attribute of its own, and its options are those of the text model."""
    model, stock = prepared("gemma4", top_k=TOP_K), tiny_model("gemma4", top_k_experts=TOP_K)
    assert [layer.top_k for layer in moe_layers(model)] == [TOP_K] * 3
    assert torch.equal(logits_of(model), logits_of(stock))
    assert not torch.equal(logits_of(model), logits_of(tiny_model("gemma4")))
    assert counts_of(model) == [TOKENS * TOP_K] * 3
