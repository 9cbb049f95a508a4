"""Models that are offloaded or over several devices: their routers route and count; another forward is refused."""

import copy
from contextlib import nullcontext
from types import MethodType

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from transformers import AutoModelForCausalLM

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError, UnsupportedModelError
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.hooked import computes_on
from expert_condenser.moe.own_types import CondenserModel
from expert_condenser.testing import tiny_batch, tiny_model
from tests.model_comparison import set_bias

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
IDS, TOP_K = tiny_batch(3, 11), 3
every_family = pytest.mark.parametrize("family", FAMILIES)


def placed(model, last):
    """The place of every part: the last layer on `last`, all others on the CPU."""
    parts = {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "layers"}
    layers = {f"model.layers.{index}": "cpu" for index in range(len(model.model.layers))}
    return {**parts, **layers, "lm_head": "cpu", f"model.layers.{len(layers) - 1}": last}


def offloaded(family, folder):
    return cpu_offload(tiny_model(family))


def dispatched(family, folder):
    model = tiny_model(family)
    return dispatch_model(model, placed(model, "cpu"), force_hooks=True)


def loaded_to_disk(family, folder):
    """As users do: the last layer does not fit, so `device_map` leaves it on the disk."""
    model = tiny_model(family)
    model.save_pretrained(folder)
    options = {"device_map": placed(model, "disk"), "offload_folder": str(folder / "offload"), "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def unhooked(family, folder):
    """Without hooks again, each module still has a forward on the instance: that of its class."""
    return remove_hook_from_module(offloaded(family, folder), recurse=True)


every_way = pytest.mark.parametrize("hook", [offloaded, dispatched, loaded_to_disk, unhooked])


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@every_family
@every_way
def test_a_hooked_model_routes_as_one_without_hooks(family, hook, tmp_path):
    plain, hooked = attach(tiny_model(family), RoutingConfig()), hook(family, tmp_path)
    assert all("forward" in vars(layer.router) for layer in moe_layers(hooked))
    off = logits_of(hooked)
    attach(hooked, RoutingConfig())
    assert torch.equal(logits_of(hooked), off), "off is identity"
    for model in (plain, hooked):
        set_bias(model, 2, 3.0)
        set_condensers(model, {index: [5] for index in range(len(moe_layers(model)))})
    assert torch.equal(logits_of(hooked), logits_of(plain))
    assert not torch.equal(logits_of(hooked), off)
    detach(hooked)
    assert torch.equal(logits_of(hooked), off)


@every_family
@every_way
def test_a_hooked_model_counts(family, hook, tmp_path):
    model = attach(hook(family, tmp_path), None).train()
    model(input_ids=IDS, use_cache=False)
    assert [int(layer.router.counter.counts.sum()) for layer in moe_layers(model)] == [IDS.numel() * TOP_K] * len(
        moe_layers(model)
    )


@every_way
def test_a_copy_of_a_hooked_model_routes_for_itself(hook, tmp_path):
    model = attach(hook("olmoe", tmp_path), RoutingConfig())
    off, twin = logits_of(model), copy.deepcopy(model)
    set_bias(twin, 2, 3.0)
    assert not torch.equal(logits_of(twin), off)
    assert torch.equal(logits_of(model), off)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
def test_a_model_that_is_hooked_after_it_was_attached_routes_and_detaches(family):
    model = attach(tiny_model(family), RoutingConfig())
    set_bias(model, 2, 3.0)
    expected = logits_of(model)
    cpu_offload(model)
    assert torch.equal(logits_of(model), expected)
    detach(model)
    assert torch.equal(logits_of(model), logits_of(tiny_model(family)))
    assert not torch.equal(logits_of(model), expected)


def test_an_own_type_is_loaded_with_a_layer_on_the_disk(tmp_path):
    model = attach(tiny_model(), RoutingConfig())
    set_bias(model, 2, 3.0)
    model.save_pretrained(tmp_path)
    options = {"device_map": placed(model, "disk"), "offload_folder": str(tmp_path / "offload")}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **options, dtype=torch.float32)
    assert isinstance(loaded, CondenserModel)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_the_router_state_is_where_the_router_computes():
    model = cpu_offload(tiny_model())
    router = moe_layers(model)[0].router
    assert next(router.parameters()).device.type == "meta"
    assert computes_on(router) == torch.device("cpu")
    router._hf_hook.execution_device = "meta"  # the only other device that a CPU has
    assert computes_on(router) == torch.device("meta")
    inner = attach(cpu_offload(tiny_model("afmoe")), RoutingConfig())
    assert {str(layer.router.selection_bias.device) for layer in moe_layers(inner)} == {"cpu"}


def test_a_forward_that_hides_that_of_the_class_is_refused_by_name():
    for config in (None, RoutingConfig()):
        model = tiny_model()
        router = moe_layers(model)[1].router
        stock = router.forward
        router.forward = lambda *inputs, stock=stock: stock(*inputs)
        with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1\.mlp\.gate has a forward on the instance"):
            attach(model, config)
        assert not hasattr(moe_layers(model)[0].router, "attachment"), "nothing is attached"
        router.forward = MethodType(type(router).forward, router)
        attach(model, config)
        assert attachment_of(model).policy == config


def test_a_hook_around_such_a_forward_is_refused_too():
    model = tiny_model()
    router = moe_layers(model)[2].router
    stock = router.forward
    router.forward = lambda *inputs: stock(*inputs)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.2\.mlp\.gate has a forward"):
        attach(cpu_offload(model), RoutingConfig())


def test_a_bias_that_is_offloaded_later_cannot_move():
    for offload in (False, True):
        model, method = tiny_model(), METHODS["loss_free"](MethodConfig())
        method.prepare(model)
        cpu_offload(model, offload_buffers=offload)
        usage = torch.arange(8).repeat(len(method.layers), 1)
        with pytest.raises(RoutingError, match="is offloaded") if offload else nullcontext():
            method.step(usage)


def test_offloaded_buffers_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.mlp\.gate.*offload_buffers=False"):
        attach(cpu_offload(tiny_model(), offload_buffers=True), RoutingConfig())
