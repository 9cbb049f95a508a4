"""A forward that fails leaves nothing behind: no graph, no open watch, and a model that can be copied and goes on."""

import copy
import gc

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.testing import tiny_batch, tiny_model

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
IDS, TOP_K = tiny_batch(3, 11), 3
every_family = pytest.mark.parametrize("family", FAMILIES)


def prepared(family, method, mixer="lean"):
    model = tiny_model(family).train()
    METHODS[method](MethodConfig(**({"mixer": mixer} if method == "densemixer" else {}))).prepare(model)
    model.config.use_cache = False
    return model


class Failing:
    """Lets the last layer fail: between the router and the experts, in the experts, or after them."""

    def __init__(self, model, where, error):
        layer = moe_layers(model)[-1]
        self.error, self.experts = error, layer.experts
        if where == "before the experts":
            self.remove = layer.experts.register_forward_pre_hook(self.fail).remove
        elif where == "after the layer":
            self.remove = model.get_submodule(layer.block).register_forward_hook(self.fail).remove
        else:
            layer.experts.forward = self.fail

    def fail(self, *inputs):
        raise self.error("out of memory")

    def remove(self):
        del self.experts.forward


def graphs(known=()):
    """Every tensor with a graph that something in this process holds, but those that are known."""
    gc.collect()
    found = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.grad_fn is not None]
    return [item for item in found if all(item is not other for other in known)]


def forward(model):
    model(input_ids=IDS, labels=IDS)


@every_family
@pytest.mark.parametrize("method", ["bias_only", "densemixer"])
@pytest.mark.parametrize("where", ["before the experts", "in the experts", "after the layer"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_failed_forward_leaves_no_graph_and_the_model_goes_on(family, method, where, checkpointing):
    model, plain = prepared(family, method), prepared(family, method)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    failing, known = Failing(model, where, RuntimeError), graphs()
    with pytest.raises(RuntimeError, match="out of memory"):
        forward(model)
    assert graphs(known) == []
    failing.remove()
    watch = attachment_of(model).watch
    assert (watch.counting, watch.token_mask) == (False, None)
    twin = copy.deepcopy(model)
    for one in (model, twin, plain):
        one(input_ids=IDS, labels=IDS).loss.backward()
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for one in (model, twin):
        found = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in wanted.items())


@pytest.mark.parametrize("where", ["before the experts", "in the experts"])
def test_after_an_interrupt_from_the_keyboard_the_next_forward_clears(where):
    model = prepared("olmoe", "densemixer")
    failing, known = Failing(model, where, KeyboardInterrupt), graphs()
    with pytest.raises(KeyboardInterrupt):
        forward(model)
    failing.remove()
    assert len(graphs(known)) > 0, "control: torch calls no hook after an interrupt, and a graph that is held is found"
    model.eval()
    with torch.no_grad():
        forward(model)
    assert graphs(known) == []


@every_family
@pytest.mark.parametrize("method", ["sft", "bias_only", "densemixer"])
def test_a_copied_router_does_not_bring_its_decoder_along(family, method):
    model = prepared(family, method)
    router = moe_layers(model)[0].router
    reached = []

    class Counted(torch.nn.Module):
        def __deepcopy__(self, memo):
            reached.append(self)
            return type(self)()

    model.get_decoder().extra = Counted()
    twin = copy.deepcopy(router)
    assert reached == []
    assert type(twin) is type(router)
    assert twin.attachment is not router.attachment
    assert twin.attachment.routers == ()
    assert twin.policy == router.policy
    copy.deepcopy(model)
    assert len(reached) == 1, "control: with the model, the decoder is copied"


@every_family
def test_a_copied_router_routes_as_the_original_and_for_itself(family):
    model = attach(tiny_model(family), RoutingConfig())
    set_condensers(model, {0: [5]})
    router = moe_layers(model)[0].router
    router.selection_bias[2] = 3.0
    hidden = torch.randn(7, model.config.hidden_size)
    twin = copy.deepcopy(router)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(twin(hidden), router(hidden), strict=True))
        twin.selection_bias[2] = -3.0
        assert not torch.equal(twin(hidden)[2], router(hidden)[2])
    model.train()(input_ids=IDS, use_cache=False)
    assert int(router.counter.counts.sum()) == IDS.numel() * TOP_K
    assert int(twin.counter.counts.sum()) == 0


def test_a_copied_decoder_layer_has_no_model_either():
    model = attach(tiny_model(), RoutingConfig())
    block = copy.deepcopy(model.model.layers[1])
    assert block.mlp.gate.attachment.routers == ()
    assert block.mlp.gate.attachment.policy == attachment_of(model).policy
    again = copy.deepcopy(block.mlp.gate)
    assert again.attachment.routers == ()
