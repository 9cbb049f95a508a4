"""A deep copy of an attached model is another model: nothing that one does is seen in the other."""

import copy

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError
from expert_condenser.moe.attachment import Attachment, attachment_of, find_attachment
from expert_condenser.moe.router import PolicyRouter
from expert_condenser.testing import tiny_batch, tiny_model

FAMILIES = ("olmoe", "deepseek_v2", "gpt_oss")
every_family = pytest.mark.parametrize("family", FAMILIES)


def attached(family, **options):
    model = attach(tiny_model(family), RoutingConfig(**options)).train()
    set_condensers(model, {index: [2] for index in range(len(moe_layers(model)))})
    for layer in moe_layers(model):
        layer.router.selection_bias[:3] = torch.tensor([0.3, -0.2, 0.1])
    return model


def counts(model):
    return torch.stack([layer.router.counter.counts for layer in moe_layers(model)])


def backward(model, seed=0):
    output = model(input_ids=tiny_batch(seed=seed), labels=tiny_batch(seed=seed), use_cache=False)
    output.loss.backward()
    return output.logits.detach()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_family
def test_a_copy_has_parts_of_its_own(family):
    model = attached(family)
    twin = copy.deepcopy(model)
    own, other = attachment_of(model), attachment_of(twin)
    assert isinstance(other, Attachment)
    assert other is not own
    assert other.policy == own.policy
    assert (other.watch is own.watch, other.replay is own.replay) == (False, False)
    for mine, theirs, layer in zip(own.routers, other.routers, moe_layers(twin), strict=True):
        assert theirs is layer.router
        assert theirs is not mine
        assert theirs.attachment is other
        assert theirs.counter is not mine.counter
        assert torch.equal(theirs.selection_bias, mine.selection_bias)
        assert theirs.selection_bias.data_ptr() != mine.selection_bias.data_ptr()


@every_family
def test_counting_in_one_is_not_seen_in_the_other(family):
    model = attached(family)
    backward(model)
    twin = copy.deepcopy(model)
    before = counts(model)
    assert torch.equal(counts(twin), before)
    assert before.sum() > 0
    backward(twin, seed=1)
    assert torch.equal(counts(model), before)
    assert counts(twin).sum() == 2 * before.sum()
    attachment_of(model).reset(detailed=True)
    assert counts(model).sum() == 0
    assert counts(twin).sum() == 2 * before.sum()
    assert attachment_of(twin).watch.detailed is False


@every_family
def test_both_route_and_learn_alike_until_one_is_changed(family):
    model = attached(family)
    twin = copy.deepcopy(model)
    assert torch.equal(backward(twin), backward(model))
    found, wanted = gradients(twin), gradients(model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    with torch.no_grad():
        moe_layers(twin)[0].router.selection_bias.neg_()
    assert not torch.equal(backward(twin), backward(model)), "the change is in the copy"
    untouched = attached(family)
    assert torch.equal(backward(untouched), backward(model)), "and in the copy alone"


@every_family
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_copy_under_checkpointing_replays_for_itself(family, reentrant):
    model = attached(family)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    backward(model)
    twin = copy.deepcopy(model)
    model.zero_grad(), twin.zero_grad()
    output = twin(input_ids=tiny_batch(), labels=tiny_batch(), use_cache=False)
    with (
        torch.no_grad()
    ):  # between forward and backward, in both: the recomputation still gets the first pass's experts
        for layer in (*moe_layers(twin), *moe_layers(model)):
            layer.router.selection_bias.mul_(-5)
    output.loss.backward()
    plain = attached(family)
    backward(plain)
    found, wanted = gradients(twin), gradients(plain)
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in wanted.items())
    assert counts(model).sum() == counts(plain).sum(), "its own forward alone"
    assert counts(twin).sum() == 2 * counts(plain).sum(), "that of the model before it was copied, and its own"


@every_family
def test_detaching_one_leaves_the_other_attached(family):
    model = attached(family)
    twin = copy.deepcopy(model)
    expected = backward(model)
    detach(twin)
    assert find_attachment(twin) is None
    assert not any(isinstance(layer.router, PolicyRouter) for layer in moe_layers(twin))
    assert torch.equal(backward(twin), backward(tiny_model(family).train())), "the copy is the stock model"
    assert find_attachment(model) is not None
    assert torch.equal(backward(model), expected)
    before = counts(model)
    backward(twin)
    assert torch.equal(counts(model), before)
    with pytest.raises(RoutingError, match="is not attached: its routers are transformers' own"):
        attachment_of(twin)


@pytest.mark.parametrize("method", ["densemixer", "bias_only", "esft_token"])
def test_a_copy_of_a_model_that_a_method_prepared(method):
    from expert_condenser.methods.esft import ExpertConfig

    def prepare(model):
        made = METHODS[method](MethodConfig())
        if method == "esft_token":
            made.chosen = ExpertConfig({"0": [1], "1": [0], "2": [3]})
        made.prepare(model)
        return model.train()

    model = prepare(tiny_model())
    twin = copy.deepcopy(model)
    backward(twin)
    backward(model)
    found, wanted = gradients(twin), gradients(model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert torch.equal(counts(twin), counts(model))
    plain = attach(tiny_model(), None).train()
    backward(plain)
    if method == "densemixer":
        gate = "model.layers.0.mlp.gate.weight"
        assert not torch.equal(found[gate], gradients(plain)[gate]), "the copy's routers get the dense gradient"


def test_an_attachment_is_found_through_wrappers():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = attached("olmoe")
    assert attachment_of(Wrapper(Wrapper(model))) is attachment_of(model)
    with pytest.raises(RoutingError, match="OlmoeForCausalLM is not attached"):
        attachment_of(tiny_model())


def test_control_what_is_not_copied_is_shared():
    """What the tests above would see if a copy kept the attachment of the original."""
    model = attached("olmoe")
    twin = copy.deepcopy(model, {id(attachment_of(model)): attachment_of(model)})
    assert attachment_of(twin) is attachment_of(model)
