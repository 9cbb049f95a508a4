"""The trunk as the backends of vLLM and SGLang build it: on no device, pickled by class, captured as one graph."""

import copy

import jaxtyping
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from expert_condenser import moe_layers
from tests.export.test_native import IDS, tuned

FAMILIES = ["olmoe", "glm4_moe"]


@pytest.fixture(params=FAMILIES)
def source(tmp_path, request):
    """A saved model with a bias, and with a condenser in every layer."""
    return tuned(tmp_path / "tuned", request.param, 1)


@pytest.fixture
def unchecked():
    """Shapes are not checked for a while: the checks of the suite are no part of the product, nor of a graph."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


def trunk_of(source, **options):
    return AutoModel.from_pretrained(source, dtype=torch.float32, **options).eval()


def test_on_meta_every_tensor_of_a_router_is_there_without_memory(source):
    config = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        trunk = AutoModel.from_config(config)
    for layer, wanted in zip(moe_layers(trunk), moe_layers(trunk_of(source)), strict=True):
        for name in ("selection_bias", "condenser_ids"):
            made, saved = layer.router.get_buffer(name), wanted.router.get_buffer(name)
            assert made.is_meta
            assert not saved.is_meta
            assert (made.shape, made.dtype) == (saved.shape, saved.dtype)


def test_where_parameters_alone_are_on_meta_buffers_have_memory_to_be_filled(source, monkeypatch):
    """As vLLM builds a model: parameters are moved as they are registered, buffers are left."""
    register = nn.Module.register_parameter

    def on_meta(module, name, parameter):
        moved = None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, moved)

    config = AutoConfig.from_pretrained(source)
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "register_parameter", on_meta)
        trunk = AutoModel.from_config(config)
    assert all(parameter.is_meta for parameter in trunk.parameters())
    for layer in moe_layers(trunk):
        assert not layer.router.selection_bias.is_meta
        assert not layer.router.condenser_ids.is_meta


def test_the_routed_trunk_is_captured_as_one_graph_that_routes(source, unchecked):
    trunk = trunk_of(source, experts_implementation="batched_mm")
    without = copy.deepcopy(trunk)
    for layer in moe_layers(without):
        layer.router.selection_bias.zero_()
    captured = torch.compile(trunk, backend="eager", fullgraph=True)  # an error where the graph would break
    with torch.no_grad():
        wanted = trunk(input_ids=IDS, use_cache=False).last_hidden_state
        found = captured(input_ids=IDS, use_cache=False).last_hidden_state
        assert torch.equal(found, wanted)
        assert not torch.equal(without(input_ids=IDS, use_cache=False).last_hidden_state, wanted)


def test_a_break_of_the_graph_would_be_noticed(tmp_path, unchecked):
    trunk = trunk_of(tuned(tmp_path / "tuned", "olmoe", 1), experts_implementation="batched_mm")
    moe_layers(trunk)[0].router.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(trunk, backend="eager", fullgraph=True)(input_ids=IDS, use_cache=False)
