"""Every model type in the table: off is the stock model, condensers route, it trains, and a checkpoint comes back."""

import copy
import functools
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import UnsupportedModelError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.families import FAMILIES, REFUSED
from expert_condenser.moe.layers import expert_norms
from expert_condenser.moe.own_types import CondenserModel, auto_class, condensers_of, selection_biases, stock_class
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_config, tiny_model
from expert_condenser.testing.families import TINY_FAMILIES
from expert_condenser.training.usage import collect
from tests.model_comparison import assert_same, set_bias

IDS = tiny_batch(3, 11)
TOP_K, EXPERTS, STEP = 3, 8, 1e-2
DBRX = TINY_FAMILIES["dbrx"]["ffn_config"]
VARIANTS = {
    "axk2, without groups": ("axk2", {"n_group": None, "topk_group": None}),
    "cohere2_moe, sigmoid": ("cohere2_moe", {"expert_selection_fn": "sigmoid"}),
    "cohere2_moe, sigmoid as it is": ("cohere2_moe", {"expert_selection_fn": "sigmoid", "norm_topk_prob": False}),
    "dbrx, as it is": ("dbrx", {"ffn_config": {**DBRX, "moe_normalize_expert_weights": None}}),
    "dbrx, by another norm": ("dbrx", {"ffn_config": {**DBRX, "moe_normalize_expert_weights": 2.0}}),
    "deepseek_ocr2, without groups": ("deepseek_ocr2", {"topk_method": "greedy"}),
    "deepseek_v3, as it is": ("deepseek_v3", {"norm_topk_prob": False}),
    "deepseek_v4, sigmoid": ("deepseek_v4", {"scoring_func": "sigmoid"}),
    "flex_olmo, normalized": ("flex_olmo", {"norm_topk_prob": True}),
    "flint, as it is": ("flint", {"norm_topk_prob": False}),
    "kolibri1, normalized": ("kolibri1", {"norm_topk_prob": True}),
    "laguna, soft-capped": ("laguna", {"moe_router_logit_softcapping": 2.0}),
    "lfm2_moe, without its bias": ("lfm2_moe", {"use_expert_bias": False}),
    "lfm2_moe, as it is": ("lfm2_moe", {"norm_topk_prob": False}),
    "llama4_text, three experts": ("llama4_text", {"num_experts_per_tok": 3}),
    "mistral4, as it is": ("mistral4", {"norm_topk_prob": False}),
}
CASES = {**{name: (name, {}) for name in FAMILIES}, **VARIANTS}
# With scores in bfloat16, experts tie whose logits differ; what is ranked with a bias are the logits.
ROUND_THEIR_SCORES = {"lfm2_moe, without its bias", "mistral4", "mistral4, as it is"}
ROUND_THEIR_SCORES |= {"dbrx", "dbrx, as it is", "dbrx, by another norm"}
FEWER = {"phimoe": 2, "llama4": 1, "llama4_text": 1}
"""Experts per token where a family has fewer than `TOP_K`; with one, condensers need the additive budget."""
FAIL_UNDER_AUTOCAST = ("dbrx",)
"""Families whose stock experts add bfloat16 to float32 in place where the weights are float32."""
every_family = pytest.mark.parametrize("name", FAMILIES)
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def built(name):
    family, options = CASES[name]
    return eager(tiny_model(family, **options))


def eager(model):
    """Experts one by one: the tiny sizes do not fit grouped_mm's bfloat16 kernel."""
    for layer in moe_layers(model):
        if hasattr(layer.experts, "config"):
            layer.experts.config._experts_implementation = "eager"
    return model


def fresh(name):
    return copy.deepcopy(built(name))


def reloaded(model, folder, dtype=torch.float32):
    model.save_pretrained(folder)
    return eager(load_model(folder, dtype=dtype, experts_implementation="eager").eval())


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def logits_and_gradients(model):
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().pow(2).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def with_routing(model):
    """`model` with the policy that has room for condensers."""
    alone = all(layer.top_k == 1 for layer in moe_layers(model))
    return attach(model, RoutingConfig(budget="additive" if alone else "shared"))


def assert_fails_under_autocast(*models):
    for model in models:
        with pytest.raises(RuntimeError, match="must have the same scalar type"):
            model(input_ids=IDS, use_cache=False)


def condensers_for(model):
    """Two condensers in every layer, or as many as leave a token one expert to choose."""
    layers = moe_layers(model)
    room = [2 if attachment_of(model).policy.budget == "additive" else layer.top_k - 1 for layer in layers]
    return {index: [5, index][: min(2, room[index])] for index in range(len(layers))}


def condensed(model):
    """`model` with random biases, and condensers in every layer."""
    with_routing(model)
    generator = torch.Generator().manual_seed(2)
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.randn(EXPERTS, generator=generator))
    set_condensers(model, condensers_for(model))
    return model


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory):
    """A stock model as transformers loads it: what the family keeps in float32 stays there."""

    @functools.cache
    def stock(name):
        return reloaded(fresh(name), tmp_path_factory.mktemp("stock"), torch.bfloat16)

    return lambda name: copy.deepcopy(stock(name))


def test_every_family_has_a_tiny_model():
    assert not TINY_CONFIGS.keys() & TINY_FAMILIES.keys()
    assert set(FAMILIES) <= TINY_CONFIGS.keys() | TINY_FAMILIES.keys()
    assert set(TINY_FAMILIES) <= set(FAMILIES)


@every_family
def test_the_tiny_model_is_of_the_family_and_uses_what_its_rule_says(name):
    model = fresh(name)
    layers = moe_layers(model)
    assert type(model) is stock_class(name)
    assert len(layers) >= 2
    assert {(layer.num_experts, layer.top_k) for layer in layers} == {(EXPERTS, FEWER.get(name, TOP_K))}
    assert {type(layer.router).__name__ for layer in layers} == {FAMILIES[name].router_class}
    for layer in layers:
        assert expert_norms(layer).shape == (EXPERTS,)
        assert expert_norms(layer)[: layer.num_weighted].min() > 0
        assert not expert_norms(layer)[layer.num_weighted :].any()
        assert layer.num_weighted == (6 if name == "longcat_flash" else EXPERTS)


@every_case
def test_off_is_the_stock_model_bit_for_bit(name):
    stock, attached = fresh(name), attach(fresh(name), RoutingConfig())
    expected = logits_and_gradients(stock)
    assert len(expected[1]) > 0
    assert_same(logits_and_gradients(attached), expected)
    set_bias(attached, 5, 1e-30)  # the biased path orders as the family does
    assert_same(logits_and_gradients(attached), expected)
    set_bias(attached, 5, 3.0)
    assert not torch.equal(logits_of(attached), expected[0])


@every_case
def test_off_is_the_stock_model_in_bfloat16(name, in_bfloat16):
    stock, attached = in_bfloat16(name), attach(in_bfloat16(name), RoutingConfig())
    assert stock.get_input_embeddings().weight.dtype == torch.bfloat16
    expected = logits_of(stock)
    assert torch.equal(logits_of(attached), expected)
    if name not in ROUND_THEIR_SCORES:
        set_bias(attached, 5, 1e-30)
        assert torch.equal(logits_of(attached), expected)
    set_bias(attached, 5, 3.0)
    assert not torch.equal(logits_of(attached), expected)


@every_case
def test_off_is_the_stock_model_under_autocast(name):
    """Float32 weights under autocast, as `bf16=True` trains them: every step of a router gets its own dtype."""
    stock, attached = fresh(name), attach(fresh(name), RoutingConfig())
    with torch.autocast("cpu", torch.bfloat16):
        if CASES[name][0] in FAIL_UNDER_AUTOCAST:
            assert_fails_under_autocast(stock, attached)
            return
        expected = logits_and_gradients(stock)
        assert_same(logits_and_gradients(attached), expected)
        if name not in ROUND_THEIR_SCORES:
            set_bias(attached, 5, 1e-30)
            assert_same(logits_and_gradients(attached), expected)


@every_case
def test_condensers_take_their_slots_of_every_token(name, recorded_routing):
    model = with_routing(fresh(name))
    condensers, slots = condensers_for(model), FEWER.get(name, TOP_K)
    assert all(condensers.values())
    slots += 2 if slots == 1 else 0
    set_condensers(model, condensers)
    with recorded_routing(model) as calls:
        logits_of(model)
    assert len(calls) == len(condensers)
    for index, logits, weights, indices in calls:
        assert logits.shape == (IDS.numel(), EXPERTS)
        assert weights.shape == indices.shape == (IDS.numel(), slots)
        assert all(len(set(row)) == slots and set(condensers[index]) <= set(row) for row in indices.tolist())


@every_family
def test_a_training_step_moves_the_weights_and_the_bias(name):
    model = fresh(name)
    budget = "additive" if FEWER.get(name) == 1 else None
    method = METHODS["condenser"](MethodConfig(bias_step=STEP, num_condensers=Allocation.parse("1"), budget=budget))
    method.prepare(model)
    layers = moe_layers(model)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-1)
    mask = torch.ones_like(IDS)
    mask[0, -4:] = 0
    model.train()(input_ids=IDS, attention_mask=mask, labels=IDS, use_cache=False).loss.backward()
    optimizer.step()
    counts = collect(attachment_of(model)).counts
    assert counts.sum(-1).tolist() == [int(mask.sum()) * FEWER.get(name, TOP_K)] * len(layers)
    method.step(counts)
    expected = STEP * torch.sign(counts * EXPERTS - counts.sum(-1, keepdim=True)).float()
    assert torch.equal(selection_biases(model), expected)
    assert expected.abs().sum() > 0
    assert all(p.isfinite().all() for p in model.parameters())
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert all(any(key.startswith(layer.name) for key in moved) for layer in layers)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["new", "loaded"])
def test_round_trip(name, dtype, in_bfloat16, tmp_path):
    """Of a new model, and of one that was loaded: transformers writes that one's keys as it found them."""
    model = condensed(fresh(name) if dtype == torch.float32 else in_bfloat16(name))
    loaded = reloaded(model, tmp_path, dtype)
    assert type(loaded) is type(model)
    assert isinstance(loaded, CondenserModel)
    dtypes = [{key: tensor.dtype for key, tensor in m.state_dict().items()} for m in (model, loaded)]
    assert dtypes[0] == dtypes[1]
    assert condensers_of(loaded) == condensers_of(model)
    assert torch.equal(selection_biases(loaded), selection_biases(model))
    assert torch.equal(logits_of(loaded), logits_of(model))
    with pytest.raises(Exception, match="pip install expert-condenser"):
        stock_class(name).from_pretrained(tmp_path)
    describe_model(tmp_path, {})
    auto = auto_class(CONFIG_MAPPING[name]).__name__
    assert auto in json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert f"{auto}.from_pretrained" in (tmp_path / "README.md").read_text()


@every_family
def test_detach_restores_the_stock_model(name):
    stock, model = fresh(name), fresh(name)
    expected = logits_and_gradients(stock)
    with_routing(model)
    set_condensers(model, {0: [4]})
    set_bias(model, 2, 1.0)
    assert not torch.equal(logits_of(model), expected[0])
    detach(model)
    assert type(model) is type(stock)
    assert model.config.to_dict() == stock.config.to_dict()
    assert list(model.state_dict()) == list(stock.state_dict())
    assert_same(logits_and_gradients(model), expected)


NOT_MOE = {"granite_docling": "GraniteDoclingDensityRouter chooses how finely the tiles of an image are read"}


def modeling_source(config_class):
    path = Path(sys.modules[config_class.__module__].__file__)
    path = path.with_name(path.name.replace("configuration_", "modeling_"))
    return path.read_text() if path.exists() else ""


def parts_of(config_class):
    """The model types of the text, image and sound models inside a model, at any depth."""
    for part in config_class.sub_configs.values():
        yield getattr(part, "model_type", "")
        yield from parts_of(part) if hasattr(part, "sub_configs") else ()


def test_no_router_of_transformers_is_forgotten():
    """Every model type beside MoE classes is in the table, is refused with a reason, or is a part of such a type."""
    known = {*FAMILIES, *REFUSED, *NOT_MOE}
    parts = {part for model_type in known for part in parts_of(CONFIG_MAPPING[model_type])}
    generates = {*MODEL_FOR_CAUSAL_LM_MAPPING, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}
    moe_class = re.compile(r"^class \w*(Experts?|Router|Gating|MoE|Moe|MoeBlock)\(", re.MULTILINE)
    found = {model_type for model_type, config in CONFIG_MAPPING.items() if moe_class.search(modeling_source(config))}
    assert len(found) > 100
    assert {name for name in found - known if CONFIG_MAPPING[name] in generates or name not in parts} == set()


def test_refused_types_are_known_to_transformers_and_not_supported():
    assert set(REFUSED) <= set(CONFIG_MAPPING)
    assert not REFUSED.keys() & FAMILIES.keys()
    assert set(NOT_MOE) <= set(CONFIG_MAPPING)


def test_a_known_language_model_inside_another_type_is_refused():
    """`save_pretrained` would write the stock type, which loads it without bias and condensers."""
    vision = {**TINY_FAMILIES["minimax_m3_vl"]["vision_config"], "image_size": [16, 16], "patch_size": [4, 4]}
    config = CONFIG_MAPPING["internvl"](text_config=tiny_config("qwen3_moe").to_dict(), vision_config=vision)
    model = auto_class(type(config)).from_config(config)
    with pytest.raises(UnsupportedModelError, match=r"\(internvl\): the language model inside is of a known family"):
        attach(model, RoutingConfig())
    assert len(moe_layers(model.model.language_model)) == 3


def test_a_refused_type_says_why():
    model = tiny_model("qwen3_omni_moe_thinker")
    model.config.model_type = "qwen3_omni_moe"
    with pytest.raises(UnsupportedModelError, match="load its thinker"):
        moe_layers(model)


def test_the_table_says_where_the_router_sits():
    for name, family in FAMILIES.items():
        layer = moe_layers(tiny_model(name))[0]
        assert re.sub(r"^.*?\.\d+\.", "", layer.name) == family.router
