"""An adapter with router state is in effect as a whole, or not at all: disabled, the model is its base to the bit."""

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import RoutingError
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import tiny_batch, tiny_model

PAPER_FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")


@pytest.fixture(scope="module", params=PAPER_FAMILIES)
def saved(request, tmp_path_factory):
    """A folder with a base model, and an adapter on it that has learnt weights, a bias and condensers."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param).save_pretrained(folder / "base")
    options = AdapterConfig(lora="attention+experts", lora_r=2, lora_alpha=4)
    model = add_adapter(load(folder / "base"), options, ["attention", "experts", "router"], RoutingConfig())
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for layer in moe_layers(model):
        layer.router.selection_bias.normal_()
    set_condensers(model, {0: [1, 4], 1: [2]})
    model.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def base(saved):
    return logits_of(load(saved / "base"))


@pytest.fixture
def model(saved):
    return load(saved / "adapter")


def load(path):
    return load_model(path, experts_implementation="eager")  # in bfloat16, `grouped_mm` wants widths in steps of 8


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=tiny_batch(2, 9)).logits


def test_a_disabled_adapter_leaves_the_base_to_the_bit_and_comes_back(model, base):
    own = logits_of(model)
    assert not torch.allclose(own, base, atol=1e-3), "control"
    with model.disable_adapter():
        assert torch.equal(logits_of(model), base)
        with torch.no_grad():
            model.train()
            assert torch.equal(model(input_ids=tiny_batch(2, 9)).logits, base), "a reference within a training step"
    assert torch.equal(logits_of(model), own)
    policy = attachment_of(model).policy
    with model.disable_adapter(), pytest.raises(ValueError, match="input_ids"):
        model()
    assert attachment_of(model).policy == policy
    assert torch.equal(logits_of(model), own), "after a failed forward too"


def test_a_failing_hook_of_somebody_else_does_not_switch_the_routing_off(model):
    def fail(*call):
        raise ValueError("fails")

    own, policy = logits_of(model), attachment_of(model).policy
    decoder = model.get_base_model().model
    handle = decoder.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(ValueError, match="fails"):
        logits_of(model)
    handle.remove()
    assert attachment_of(model).policy == policy
    assert torch.equal(logits_of(model), own)


def test_control_the_bias_and_the_condensers_alone_change_the_logits(saved, base):
    model = load(saved / "adapter")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert not torch.allclose(logits_of(model), base, atol=1e-4)


def test_a_merged_adapter_is_in_effect_until_it_is_disabled(model, base):
    own = logits_of(model)
    model.merge_adapter()
    assert torch.allclose(logits_of(model), own, atol=1e-5)
    with model.disable_adapter():
        assert torch.allclose(logits_of(model), base, atol=1e-5), "taken out of the weights, and of the routers"
    assert torch.allclose(logits_of(model), own, atol=1e-5)


def test_a_copy_and_another_dtype(saved, model, base):
    own = logits_of(model)
    twin = copy.deepcopy(model)
    with twin.disable_adapter():
        assert torch.equal(logits_of(twin), base)
        assert torch.equal(logits_of(model), own), "the original is not switched off"
    assert torch.equal(logits_of(twin), own)
    half = twin.to(torch.bfloat16)
    with half.disable_adapter():
        assert torch.equal(logits_of(half), logits_of(load(saved / "base").to(torch.bfloat16)))
    assert torch.equal(selection_biases(half), selection_biases(model))


def test_unloading_gives_the_stock_base(saved, model, base):
    stock, found = load(saved / "base"), model.unload()
    assert type(found) is type(stock)
    assert found.config.to_dict() == stock.config.to_dict()
    assert found.state_dict().keys() == stock.state_dict().keys()
    assert torch.equal(logits_of(found), base)
    assert find_attachment(found) is None
    assert not any(module._forward_pre_hooks for module in found.modules())


def test_merging_for_good_keeps_bias_and_condensers(model, base):
    own, biases, condensers = logits_of(model), selection_biases(model), condensers_of(model)
    merged = model.merge_and_unload()
    assert torch.allclose(logits_of(merged), own, atol=1e-5)
    assert not torch.allclose(logits_of(merged), base, atol=1e-3)
    assert torch.equal(selection_biases(merged), biases)
    assert condensers_of(merged) == condensers


def test_a_deleted_adapter_takes_its_routing_along(model, base):
    inner = model.get_base_model()
    model.delete_adapter("default")
    assert torch.equal(logits_of(inner), base)


def test_a_second_adapter_is_refused_and_leaves_no_trace(saved, model):
    own = logits_of(model)
    for add in (
        lambda: model.load_adapter(str(saved / "adapter"), "second"),
        lambda: model.add_adapter("ref", model.peft_config["default"]),
        lambda: PeftModel.from_pretrained(model.get_base_model(), saved / "adapter", "third"),
    ):
        with pytest.raises(RoutingError, match="one adapter with router state"):
            add()
        assert list(model.peft_config) == ["default"]
        assert torch.equal(logits_of(model), own)
    model.set_adapter("default")
    assert torch.equal(logits_of(model), own)


def test_a_weighted_sum_of_adapters_is_refused_and_leaves_no_trace():
    options = AdapterConfig(lora="attention", lora_r=2, lora_alpha=4)
    model = add_adapter(tiny_model(), options, ["attention"], RoutingConfig())
    with pytest.raises(RoutingError, match="one adapter with router state"):
        model.add_weighted_adapter(["default"], [1.0], "sum", "linear")
    assert list(model.peft_config) == ["default"]


def test_a_base_that_is_attached_with_nothing_learnt_takes_the_adapter(saved, model):
    attached = attach(load(saved / "base"), RoutingConfig())
    assert torch.equal(logits_of(PeftModel.from_pretrained(attached, saved / "adapter")), logits_of(model))


def test_a_base_with_a_bias_of_its_own_is_refused_not_overwritten(saved, model):
    merged = model.merge_and_unload()
    biases = selection_biases(merged)
    with pytest.raises(RoutingError, match=r"the base has .*, with others\. Load it onto a plain base: detach"):
        PeftModel.from_pretrained(merged, saved / "adapter")
    assert torch.equal(selection_biases(merged), biases)


# transformers loads an adapter by itself, without a PeftModel.


@pytest.mark.parametrize("how", ["from_pretrained", "load_adapter"])
def test_transformers_loads_the_adapter_with_its_routing(saved, model, base, how, tmp_path):
    if how == "from_pretrained":
        found = AutoModelForCausalLM.from_pretrained(saved / "adapter", experts_implementation="eager")
    else:
        found = AutoModelForCausalLM.from_pretrained(saved / "base", experts_implementation="eager")
        found.load_adapter(str(saved / "adapter"))
    own = logits_of(model)
    assert torch.allclose(logits_of(found), own, atol=1e-6)
    assert torch.equal(selection_biases(found), selection_biases(model))
    assert condensers_of(found) == condensers_of(model)
    found.disable_adapters()
    assert torch.allclose(logits_of(found), base, atol=1e-6)
    found.enable_adapters()
    assert torch.allclose(logits_of(found), own, atol=1e-6)
    found.save_pretrained(tmp_path)
    again, first = (load_file(path / "adapter_model.safetensors") for path in (tmp_path, saved / "adapter"))
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], value) for name, value in first.items())
    with pytest.raises(RoutingError, match="one adapter with router state"):
        found.load_adapter(str(saved / "adapter"), "second")
    found.delete_adapter("default")
    assert torch.allclose(logits_of(found), base, atol=1e-6)


def test_transformers_keeps_the_bias_in_float32(saved, model):
    found = AutoModelForCausalLM.from_pretrained(saved / "adapter", dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(selection_biases(found), selection_biases(model))
