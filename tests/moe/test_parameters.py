"""What every parameter is, how many of each train, and the one switch for the routers."""

import pytest

from expert_condenser import moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.errors import TrainingError
from expert_condenser.moe.parameters import (
    ROUTER_MODES,
    Count,
    count_trainable,
    freeze,
    is_adapter,
    parameter_groups,
    set_router_mode,
)
from expert_condenser.moe.slices import train_slices
from expert_condenser.testing import TINY_CONFIGS, tiny_model

GROUPS = ("router", "routed experts", "shared experts", "attention", "embeddings", "norms", "other")
SHARED = {"qwen2_moe", "deepseek_v2", "deepseek_v2_grouped"}
every_family = pytest.mark.parametrize("name", TINY_CONFIGS)


def groups_of(model):
    return parameter_groups(model, moe_layers(model))


def names_in(model, group):
    return {name for name, found in groups_of(model).items() if found == group}


def adapted(*targets):
    options = AdapterConfig(lora="attention+experts", lora_r=2, lora_alpha=4)
    return add_adapter(tiny_model(), options, targets, None)


def read_off(name):
    """The group of a stock parameter, by the words that the families of `TINY_CONFIGS` use."""
    parts = name.split(".")
    if "norm" in parts[-2]:
        return "norms"
    if parts[0] == "lm_head" or parts[1] == "embed_tokens":
        return "embeddings"
    if "self_attn" in parts:
        return "attention"
    module = parts[4] if parts[3] == "mlp" else None
    own = {"gate": "router", "router": "router", "experts": "routed experts"}
    shared = dict.fromkeys(("shared_expert", "shared_expert_gate", "shared_experts"), "shared experts")
    return {**own, **shared}.get(module, "other")


# Groups.


@every_family
def test_every_parameter_is_in_the_group_that_its_name_says(name):
    model = tiny_model(name)
    found = groups_of(model)
    assert list(found) == [key for key, _ in model.named_parameters()]
    assert found == {key: read_off(key) for key in found}
    expected = {"router", "routed experts", "attention", "embeddings", "norms"}
    expected |= {"shared experts"} if name in SHARED else set()
    expected |= {"other"} if name.startswith("deepseek") else set()
    assert set(found.values()) == expected


@every_family
def test_routers_and_experts_are_those_of_the_moe_layers(name):
    model = tiny_model(name)
    layers = moe_layers(model)
    routers = {id(p) for layer in layers for p in layer.router.parameters()}
    experts = {id(p) for layer in layers for p in layer.experts.parameters()}
    parameters = dict(model.named_parameters())
    assert {id(parameters[key]) for key in names_in(model, "router")} == routers
    assert {id(parameters[key]) for key in names_in(model, "routed experts")} == experts
    assert len(routers) == len(layers) * (2 if name == "gpt_oss" else 1)


def test_names_of_the_special_cases():
    qwen = tiny_model("qwen2_moe")
    first = {key for key in names_in(qwen, "shared experts") if ".layers.0." in key}
    projections = {f"model.layers.0.mlp.shared_expert.{way}_proj.weight" for way in ("gate", "up", "down")}
    assert first == {*projections, "model.layers.0.mlp.shared_expert_gate.weight"}
    deepseek = tiny_model("deepseek_v2")
    dense = {f"model.layers.0.mlp.{way}_proj.weight" for way in ("gate", "up", "down")}
    assert names_in(deepseek, "other") == dense, "the first layer has no experts"
    assert "model.layers.0.self_attn.kv_a_layernorm.weight" in names_in(deepseek, "norms")
    oss = tiny_model("gpt_oss")
    assert "model.layers.2.self_attn.sinks" in names_in(oss, "attention")
    assert {key.rpartition(".")[2] for key in names_in(oss, "routed experts")} == {
        *("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    }


def test_tied_embeddings_are_one_parameter():
    model = tiny_model(tie_word_embeddings=True)
    assert names_in(model, "embeddings") == {"model.embed_tokens.weight"}
    assert names_in(tiny_model(), "embeddings") == {"model.embed_tokens.weight", "lm_head.weight"}


def test_adapters_belong_to_what_they_adapt():
    model = adapted("attention", "experts", "router")
    found = {key: group for key, group in groups_of(model).items() if is_adapter(key)}
    assert set(found.values()) == {"attention", "routed experts", "router"}
    assert all((".self_attn." in key) == (group == "attention") for key, group in found.items())
    assert sum(group == "router" for group in found.values()) == 3 * 2, "A and B of three layers"
    stock = set(groups_of(model).values()) - set(found.values())
    assert stock == {"embeddings", "norms"}, "what is left has no adapter"
    assert len(groups_of(model)) == len(list(model.named_parameters()))


def test_slices_are_routed_experts():
    model = tiny_model()
    train_slices(moe_layers(model)[1], [3, 0])
    new = set(groups_of(model)) - set(groups_of(tiny_model()))
    assert {key.rpartition(".")[2] for key in new} == {"gate_up_proj", "down_proj"}
    assert new < names_in(model, "routed experts")


# Counts.


def test_counts_of_olmoe_by_hand():
    """D = 32, E = 8, F = 24, three layers, a vocabulary of 96; OLMoE has norms on queries and keys."""
    model = tiny_model()
    sizes = {
        "router": 3 * 8 * 32,
        "routed experts": 3 * 8 * (2 * 24 * 32 + 32 * 24),
        "attention": 3 * 4 * 32 * 32,
        "embeddings": 2 * 96 * 32,
        "norms": 3 * 4 * 32 + 32,
    }
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())
    assert count_trainable(model, moe_layers(model)) == {key: Count(size, size) for key, size in sizes.items()}
    freeze(model, [f"model.layers.{index}.self_attn.{way}_proj.weight" for index in (0, 2) for way in "qk"])
    moe_layers(model)[1].router.requires_grad_(False)
    trainable = {**sizes, "router": 2 * 8 * 32, "attention": 8 * 32 * 32}
    assert count_trainable(model, moe_layers(model)) == {key: Count(sizes[key], trainable[key]) for key in sizes}


@every_family
def test_counts_are_of_all_parameters_in_the_order_of_the_groups(name):
    model = tiny_model(name)
    counts = count_trainable(model, moe_layers(model))
    assert sum(count.total for count in counts.values()) == sum(p.numel() for p in model.parameters())
    assert all(count.total == count.trainable > 0 for count in counts.values())
    assert list(counts) == [group for group in GROUPS if group in counts]


def test_slices_are_what_trains_of_the_experts():
    model = tiny_model()
    for layer, ids in zip(moe_layers(model), ([3, 0], [], [7]), strict=True):
        train_slices(layer, ids)
    counts = count_trainable(model, moe_layers(model))
    assert counts["routed experts"].trainable == 3 * (2 * 24 * 32 + 32 * 24)
    assert counts["routed experts"].total == 3 * 8 * (2 * 24 * 32 + 32 * 24)


@pytest.mark.parametrize(
    ("family", "part", "group"),
    [
        ("granitemoeshared", ".shared_mlp.", "shared experts"),
        ("granitemoehybrid", ".shared_mlp.", "shared experts"),
        ("nemotron_h", ".shared_experts.", "shared experts"),
        ("deepseek_v4", ".shared_experts.", "shared experts"),
        ("ernie4_5_vl_moe", ".shared_experts.", "shared experts"),
        ("afmoe", ".expert_bias", "router"),
        ("ernie4_5_moe", ".e_score_correction_bias", "router"),
        ("aria", "multi_modal_projector.", "other"),
        ("qwen3_vl_moe", "visual.", "other"),
    ],
)
def test_groups_of_other_families(family, part, group):
    groups = groups_of(tiny_model(family))
    found = {groups[name] for name in groups if part in f".{name}"}
    assert found == {group}


# The routers' switch.


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_train_changes_nothing_and_freeze_takes_the_routers(name):
    model = tiny_model(name)
    set_router_mode(model, moe_layers(model), "train")
    assert all(p.requires_grad for p in model.parameters())
    set_router_mode(model, moe_layers(model), "freeze")
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen == names_in(model, "router")
    set_router_mode(model, moe_layers(model), "train")
    assert {key for key, p in model.named_parameters() if not p.requires_grad} == frozen, "nothing is set free"
    assert ROUTER_MODES == ("train", "freeze", "lora")


@pytest.mark.parametrize("name", ["ernie4_5_moe", "laguna"])
@pytest.mark.parametrize("mode", ["train", "freeze"])
def test_a_correction_bias_that_came_frozen_stays_frozen(name, mode):
    model = tiny_model(name)
    came = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert {key.rpartition(".")[2] for key in came} == {"e_score_correction_bias"}
    assert came < names_in(model, "router")
    set_router_mode(model, moe_layers(model), mode)
    left = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert left == (came if mode == "train" else names_in(model, "router"))
    counts = count_trainable(tiny_model(name), moe_layers(model))["router"]
    assert counts == Count(len(came) * (8 * 32 + 8), len(came) * 8 * 32)


def test_modes_with_an_adapter():
    model = adapted("experts", "router")
    set_router_mode(model, moe_layers(model), "lora")
    trainable = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trainable == {key for key, _ in model.named_parameters() if is_adapter(key)}
    with pytest.raises(TrainingError, match="with an adapter the weights of the routers stay; router is 'freeze' or"):
        set_router_mode(model, moe_layers(model), "train")
    set_router_mode(model, moe_layers(model), "freeze")
    left = {key for key, p in model.named_parameters() if p.requires_grad}
    assert left == {key for key in trainable if groups_of(model)[key] == "routed experts"}


def test_lora_without_an_adapter_on_the_routers():
    for model in (tiny_model(), adapted("attention")):
        with pytest.raises(TrainingError, match="router='lora' trains adapters on the routers, and this model has"):
            set_router_mode(model, moe_layers(model), "lora")


def test_freezing_nothing_is_an_error():
    model = tiny_model()
    with pytest.raises(TrainingError, match="what is to be frozen matches no parameter"):
        freeze(model, [])
    assert all(p.requires_grad for p in model.parameters())


def test_where_router_and_experts_sit_in_the_decoder_layer_its_mlp_is_the_shared_expert():
    """Of Gemma 4; what else a decoder layer has, such as the gate of its per-layer inputs, is no expert."""
    options = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 96}
    groups = groups_of(tiny_model("gemma4_text", **options))
    of_layer = {name.removeprefix("model.layers.1."): group for name, group in groups.items() if ".layers.1." in name}
    assert {name for name, group in of_layer.items() if group == "shared experts"} == {
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    }
    assert {name for name, group in of_layer.items() if group == "router"} == {
        "router.scale",
        "router.per_expert_scale",
        "router.proj.weight",
    }
    assert {name for name, group in of_layer.items() if group == "routed experts"} == {
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    assert of_layer["per_layer_input_gate.weight"] == of_layer["per_layer_projection.weight"] == "other"
