"""Off is identity, on is the rule, and detaching leaves no trace: for every family."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expert_condenser import RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError, UnsupportedModelError
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.own_types import CondenserModel, condensers_of, selection_biases
from expert_condenser.testing import TINY_CONFIGS, VOCABULARY_SIZE, tiny_batch, tiny_model
from tests.model_comparison import assert_same, set_bias

every_family = pytest.mark.parametrize("name", TINY_CONFIGS)
IDS = tiny_batch(3, 11)
TOP_K = 3


def logits_of(model, **inputs):
    with torch.no_grad():
        return model(input_ids=IDS, **inputs).logits


def logits_and_gradients(model):
    model.zero_grad()
    output = model(input_ids=IDS, labels=IDS)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@every_family
@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm", "sorted_mm"])
def test_off_is_the_stock_model_bit_for_bit(name, experts):
    stock, attached = tiny_model(name), attach(tiny_model(name), RoutingConfig())
    for model in (stock, attached):
        model.set_experts_implementation(experts)
        assert model.config._experts_implementation == experts
    expected = logits_and_gradients(stock)
    assert_same(logits_and_gradients(attached), expected)
    set_bias(attached, 2, 3.0)
    assert not torch.equal(logits_and_gradients(attached)[0], expected[0])


@pytest.mark.parametrize(
    "config",
    [
        RoutingConfig(preset="reference"),
        RoutingConfig(bias_space="score"),
        RoutingConfig(budget="additive"),
        RoutingConfig(bias_in_weights=True),
        RoutingConfig(num_condensers=0),
    ],
    ids=["reference", "score", "additive", "in_weights", "none"],
)
@every_family
def test_every_config_is_off_without_bias_and_condensers(name, config):
    assert_same(logits_and_gradients(attach(tiny_model(name), config)), logits_and_gradients(tiny_model(name)))


def tied_model(name, dtype):
    """Experts 0 to 3 have the router parameters of experts 4 to 7, so the last slot falls to one of two equals."""
    model = tiny_model(name).to(dtype)
    for layer in moe_layers(model):
        for parameter in layer.router.parameters():
            parameter.data[4:] = parameter.data[:4]
    model.set_experts_implementation("eager")  # the tiny sizes do not fit grouped_mm's bfloat16 kernel
    return model


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_off_leaves_ties_as_they_fall(name, dtype, recorded_routing):
    stock, attached = tied_model(name, dtype), attach(tied_model(name, dtype), RoutingConfig())
    with recorded_routing(stock) as calls:
        expected = logits_and_gradients(stock)
    best = torch.cat([torch.topk(logits, TOP_K + 1).values for _, logits, _, _ in calls])
    assert torch.equal(best[:, TOP_K - 1], best[:, TOP_K])
    assert_same(logits_and_gradients(attached), expected)


# In stock group-limited routing such scores tie with masked groups: test_routing has what still holds there.
@pytest.mark.parametrize("name", [name for name in TINY_CONFIGS if name != "deepseek_v2_grouped"])
def test_off_leaves_scores_that_round_to_the_same_as_they_fall(name, recorded_routing):
    """Scores of distant logits are all 0: the family chooses among equals where the logits still differ."""
    stock, attached = tiny_model(name, spread=3000.0), attach(tiny_model(name, spread=3000.0), RoutingConfig())
    with recorded_routing(stock) as calls:
        expected = logits_and_gradients(stock)
    scores = torch.cat([logits.softmax(-1) for _, logits, _, _ in calls])
    assert (scores == 0).sum(dim=-1).gt(8 - TOP_K).any()
    assert_same(logits_and_gradients(attached), expected)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda name, dtype: tiny_model(name).to(dtype), tied_model], ids=["plain", "tied"])
def test_a_bias_too_small_to_matter_changes_nothing_and_a_large_one_does(name, dtype, make):
    """1e-30 takes the biased path and orders as the family does, so the path describes the family's scoring."""
    stock, attached = make(name, dtype), attach(make(name, dtype), RoutingConfig())
    for model in (stock, attached):
        model.set_experts_implementation("eager")
    set_bias(attached, 5, 1e-30)
    assert_same(logits_and_gradients(attached), logits_and_gradients(stock))
    set_bias(attached, 5, 2.0)
    assert not torch.equal(logits_of(attached), logits_of(stock))


@every_family
def test_a_large_bias_is_for_every_token_or_for_none(name, recorded_routing):
    model = attach(tiny_model(name), RoutingConfig())
    set_bias(model, 5, 100.0)
    set_bias(model, 1, -100.0)
    with recorded_routing(model) as calls:
        logits_of(model)
    for _, _, _, indices in calls:
        assert (indices == 5).any(dim=-1).all()
        assert not (indices == 1).any()


@every_family
def test_detach_restores_classes_keys_and_outputs(name):
    model = tiny_model(name)
    router_class, model_class, config_class = type(moe_layers(model)[0].router), type(model), type(model.config)
    keys, config, expected = list(model.state_dict()), model.config.to_dict(), logits_and_gradients(model)
    attach(model, RoutingConfig())
    assert isinstance(model, CondenserModel)
    assert isinstance(model, model_class)
    assert isinstance(model.config, config_class)
    set_condensers(model, {0: [4, 1]})
    set_bias(model, 2, 1.0)
    assert all(isinstance(layer.router, router_class) for layer in moe_layers(model))
    assert not torch.equal(logits_of(model), expected[0])
    detach(model)
    assert {type(layer.router) for layer in moe_layers(model)} == {router_class}
    assert (type(model), type(model.config)) == (model_class, config_class)
    assert list(model.state_dict()) == keys
    assert model.config.to_dict() == config
    assert_same(logits_and_gradients(model), expected)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    fresh = tiny_model(name)
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(model.modules(), fresh.modules(), strict=True))


def test_detach_takes_the_checkpointing_wrappers_away():
    model = attach(tiny_model().train(), RoutingConfig())
    model.gradient_checkpointing_enable()
    stock = model.model.layers[0]._gradient_checkpointing_func
    model(input_ids=IDS)
    assert model.model.layers[0]._gradient_checkpointing_func is not stock
    detach(model)
    assert all(layer._gradient_checkpointing_func is stock for layer in model.model.layers)


@every_family
def test_the_router_class_is_a_named_subclass_made_once(name):
    first, second = attach(tiny_model(name), RoutingConfig()), attach(tiny_model(name))
    classes = {type(layer.router) for model in (first, second) for layer in moe_layers(model)}
    assert len(classes) == 1
    assert classes.pop().__name__ == "Condenser" + type(moe_layers(tiny_model(name))[0].router).__name__


def test_router_state_is_two_registered_tensors_and_counters_are_none():
    stock, model = tiny_model(), attach(tiny_model(), RoutingConfig())
    prefix = "model.layers.1.mlp.gate"
    new = set(model.state_dict()) - set(stock.state_dict())
    assert {key for key in new if key.startswith(prefix)} == {f"{prefix}.selection_bias", f"{prefix}.condenser_ids"}
    assert len(new) == 6
    router = moe_layers(model)[1].router
    assert set(dict(router.named_buffers())) == {"selection_bias", "condenser_ids"}  # DDP would broadcast counters
    assert (router.selection_bias.dtype, router.condenser_ids.dtype) == (torch.float32, torch.int64)
    assert selection_biases(model).tolist() == [[0.0] * 8] * 3


@every_family
def test_without_a_config_the_model_is_only_counted(name):
    stock, model = tiny_model(name), attach(tiny_model(name))
    assert type(model) is type(stock)
    assert list(model.state_dict()) == list(stock.state_dict())
    assert_same(logits_and_gradients(model.train()), logits_and_gradients(stock.train()))
    assert all(int(layer.router.counter.counts.sum()) == IDS.numel() * TOP_K for layer in moe_layers(model))
    with pytest.raises(RoutingError, match=r"condensers need a routing policy.*RoutingConfig"):
        set_condensers(model, {0: [1]})
    detach(model)
    assert list(vars(moe_layers(model)[0].router)) == list(vars(moe_layers(stock)[0].router))


@pytest.mark.parametrize("config", [None, RoutingConfig()])
def test_attach_twice_and_detach_without_attach_are_errors(config):
    model = attach(tiny_model(), config)
    with pytest.raises(RoutingError, match=r"attached once.*detach"):
        attach(model, RoutingConfig())
    detach(model)
    with pytest.raises(RoutingError, match="not attached"):
        detach(model)
    attach(model, RoutingConfig())


def test_a_router_without_experts_beside_it_is_refused_by_name():
    model = tiny_model()
    del model.model.layers[1].mlp.experts
    with pytest.raises(UnsupportedModelError, match=r"as model\.layers\.1\.mlp\.experts; .*gate has none there"):
        attach(model, RoutingConfig())


SIZES = {"hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("model_type", "more", "found"),
    [
        ("llama", {"num_key_value_heads": 2}, "LlamaForCausalLM (llama)"),
        ("jamba", {"num_key_value_heads": 2, "use_mamba_kernels": False}, "JambaForCausalLM (jamba)"),
        (
            "qwen3_moe",
            {"num_key_value_heads": 2, "mlp_only_layers": [0]},
            "Qwen3MoeForCausalLM (qwen3_moe): has no MoE",
        ),
    ],
)
def test_a_model_without_known_routers_is_refused_with_the_known_families(model_type, more, found):
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, vocab_size=VOCABULARY_SIZE, pad_token_id=0, **SIZES, **more)
    )
    for config in (None, RoutingConfig()):
        with pytest.raises(UnsupportedModelError) as error:
            attach(model, config)
        assert found in str(error.value)
        assert all(family in str(error.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_condensers": 3}, r"layer 0 \(model.layers.0.mlp.gate\).*R <= 2"),
        ({"num_condensers": [1, 0, 3]}, r"layer 2 \(model.layers.2.mlp.gate\).*R <= 2"),
        ({"num_condensers": [1, 2]}, r"one entry per MoE layer \(3\); got 2"),
        ({"num_condensers": 6, "budget": "additive"}, "only 2 are sure to be eligible"),
        ({"num_condensers": 8, "budget": "additive", "duplicates": True}, "at most 7"),
    ],
)
def test_attach_checks_the_number_of_condensers(config, message):
    model = tiny_model()
    with pytest.raises(RoutingError, match=message):
        attach(model, RoutingConfig(**config))
    assert list(model.state_dict()) == list(tiny_model().state_dict())
    assert type(model) is type(tiny_model())


def test_attach_accepts_every_number_that_fits():
    duplicates = {"num_condensers": [7, 0, 7], "budget": "additive", "duplicates": True}
    for config in ({"num_condensers": 2}, {"num_condensers": 5, "budget": "additive"}, duplicates):
        model = attach(tiny_model(), RoutingConfig(**config))
        assert all(len(layer.router.selection_bias) == 8 for layer in moe_layers(model))


@pytest.mark.parametrize(
    ("condensers", "message"),
    [
        ({3: [1]}, r"MoE layers 0 to 2; got condensers for \[3\]"),
        ({-1: [1]}, r"got condensers for \[-1\]"),
        ({0: [1, 8]}, r"layer 0 \(model.layers.0.mlp.gate\).*0\.\.7; got \[1, 8\]"),
        ({2: [-1]}, r"layer 2 .*distinct"),
        ({1: [4, 4]}, r"layer 1 .*distinct.*\[4, 4\]"),
        ({1: [0, 1, 2]}, r"layer 1 .*K = 3.*R <= 2"),
        ({0: [1], 1: [0, 1, 2, 3]}, "layer 1 "),
    ],
)
def test_wrong_condensers_are_refused_and_nothing_is_set(condensers, message):
    model = attach(tiny_model(), RoutingConfig())
    set_condensers(model, {2: [6]})
    with pytest.raises(RoutingError, match=message):
        set_condensers(model, condensers)
    assert condensers_of(model) == {0: [], 1: [], 2: [6]}


def test_the_number_of_condensers_is_that_of_the_config():
    model = attach(tiny_model(), RoutingConfig(num_condensers=[2, 0, 1]))
    with pytest.raises(RoutingError, match=r"layer 1: .*num_condensers = 0; got 1"):
        set_condensers(model, {0: [1, 2], 1: [3]})
    assert condensers_of(model)[0] == []
    set_condensers(model, {0: [5, 2], 2: [7]})
    assert condensers_of(model) == {0: [5, 2], 1: [], 2: [7]}
    assert model.config.condenser["condensers_per_layer"] == [2, 0, 1]
    with pytest.raises(RoutingError, match=r"is not attached: .* Call attach\(model\) first"):
        set_condensers(tiny_model(), {0: [1]})


def expected_weights(name, logits, indices):
    """The family's post-processing of the unbiased scores, written down once more."""
    if name == "gpt_oss":
        return logits.gather(-1, indices).softmax(-1)
    weights = logits.softmax(-1).gather(-1, indices)
    if name in ("olmoe_normalized", "qwen3_moe", "mixtral"):
        return weights / weights.sum(-1, keepdim=True)
    return weights * 1.5 if name.startswith("deepseek") else weights


@every_family
def test_every_token_gets_k_distinct_experts_with_the_condensers_and_unbiased_weights(name, recorded_routing):
    model = attach(tiny_model(name), RoutingConfig())
    condensers = {index: [(index + 5) % 8, index][: 1 + index % 2] for index in range(len(moe_layers(model)))}
    set_condensers(model, condensers)
    generator = torch.Generator().manual_seed(3)
    biases = [torch.randn(8, generator=generator) for _ in moe_layers(model)]
    for layer, bias in zip(moe_layers(model), biases, strict=True):
        layer.router.selection_bias.copy_(bias)
    with recorded_routing(model) as calls:
        logits_of(model)
    assert [layer for layer, *_ in calls] == list(condensers)
    for layer, logits, weights, indices in calls:
        assert indices.shape == weights.shape == (IDS.numel(), TOP_K)
        assert all(len(set(row)) == TOP_K and set(condensers[layer]) <= set(row) for row in indices.tolist())
        torch.testing.assert_close(weights, expected_weights(name, logits, indices))
        biased = expected_weights(name, logits + biases[layer], indices)
        assert not torch.allclose(weights, biased), "control: the bias would show in the weights"
        if name != "deepseek_v2_grouped":
            ranks = (logits + biases[layer]).index_fill(-1, torch.tensor(condensers[layer]), -torch.inf)
            routed = torch.topk(ranks, TOP_K - len(condensers[layer])).indices
            chosen = torch.cat([routed, torch.tensor(condensers[layer]).expand(len(ranks), -1)], dim=-1)
            assert torch.equal(indices.sort().values, chosen.sort().values)


@every_family
def test_additive_condensers_take_extra_slots_and_duplicates_only_on_request(name, recorded_routing):
    for duplicates in (False, True):
        model = attach(tiny_model(name), RoutingConfig(budget="additive", duplicates=duplicates))
        set_condensers(model, {index: [6, 2] for index in range(len(moe_layers(model)))})
        with recorded_routing(model) as calls:
            logits_of(model)
        for _, _, _, indices in calls:
            assert indices.shape == (IDS.numel(), TOP_K + 2)
            assert (indices[:, TOP_K:] == torch.tensor([6, 2])).all()
            assert all((len(set(row)) == TOP_K + 2) or duplicates for row in indices.tolist())
        repeated = [len(set(row)) < TOP_K + 2 for *_, indices in calls for row in indices.tolist()]
        assert any(repeated) == duplicates


@every_family
def test_a_condenser_learns_from_every_batch_and_an_unchosen_expert_nothing(name):
    model = attach(tiny_model(name), RoutingConfig())
    for layer in moe_layers(model):
        layer.router.selection_bias[:] = torch.tensor([0.0, -100, 0, 0, -100, 0, 0, 0])
    set_condensers(model, {index: [4] for index in range(len(moe_layers(model)))})
    _, gradients = logits_and_gradients(model)
    experts = [g for name, g in gradients.items() if ".experts.down_proj" in name and "bias" not in name]
    assert len(experts) == len(moe_layers(model))
    assert all(gradient[4].abs().sum() > 0 for gradient in experts)
    assert all(gradient[1].abs().sum() == 0 for gradient in experts)


@every_family
def test_router_logits_and_the_auxiliary_loss_keep_working(name):
    stock, attached = tiny_model(name), attach(tiny_model(name), RoutingConfig())
    options = {"input_ids": IDS, "labels": IDS, "output_router_logits": True}
    expected, got = stock(**options), attached(**options)
    assert expected.keys() == got.keys()
    assert torch.equal(expected.loss, got.loss)
    if name.startswith("deepseek"):  # transformers has neither for DeepSeek-V2
        return
    assert torch.equal(expected.aux_loss, got.aux_loss)
    assert len(got.router_logits) == len(expected.router_logits) == 3
    assert all(torch.equal(a, b) for a, b in zip(expected.router_logits, got.router_logits, strict=True))
    set_bias(attached, 2, 1.0)
    set_condensers(attached, {0: [1, 4], 1: [3]})
    changed = attached(**options)
    assert torch.equal(changed.router_logits[0], expected.router_logits[0])  # raw logits, without the bias
    assert not torch.equal(changed.aux_loss, expected.aux_loss)
    changed.aux_loss.backward()
    assert moe_layers(attached)[0].router.weight.grad.abs().sum() > 0


def test_a_copy_counts_and_routes_for_itself():
    model = attach(tiny_model().train(), RoutingConfig())
    model(input_ids=IDS)
    twin = copy.deepcopy(model)
    twin(input_ids=IDS)
    set_bias(twin, 2, 3.0)
    total = IDS.numel() * TOP_K
    assert [int(layer.router.counter.counts.sum()) for layer in moe_layers(model)] == [total] * 3
    assert [int(layer.router.counter.counts.sum()) for layer in moe_layers(twin)] == [2 * total] * 3
    assert selection_biases(model).abs().sum() == 0
    detach(twin)
    model(input_ids=IDS)
    assert int(moe_layers(model)[0].router.counter.counts.sum()) == 2 * total
