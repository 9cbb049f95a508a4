"""A model without some experts, for a while: as one from which they were cut, or with the weights that there were."""

import copy

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError
from expert_condenser.moe.without_experts import least_left, without_experts
from expert_condenser.testing import tiny_batch, tiny_model

REMOVED = {0: [1, 6], 1: [0, 3], 2: [7, 2]}


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch()).logits


def cut(name):
    """A tiny model with six of the eight experts, its weights those of the large one."""
    large = tiny_model(name)
    small = tiny_model(name, **{("num_local_experts" if name == "mixtral" else "num_experts"): 6})
    state = large.state_dict()
    for layer, removed in enumerate(REMOVED.values()):
        kept = [i for i in range(8) if i not in removed]
        for key, value in state.items():
            if f".layers.{layer}." in key and len(value) == 8 and (".experts." in key or ".gate." in key):
                state[key] = value[kept]
    small.load_state_dict(state)
    return small


@pytest.mark.parametrize("name", ["olmoe", "olmoe_normalized", "mixtral"])
def test_rescaled_it_is_the_model_that_was_cut(name):
    model = tiny_model(name)
    with without_experts(model, REMOVED, rescale=True):
        found = logits_of(model)
    torch.testing.assert_close(found, logits_of(cut(name)), atol=2e-6, rtol=1e-5)
    assert (found - logits_of(model)).abs().max() > 1e-3, "control"


def test_without_rescaling_the_others_keep_their_weights(recorded_routing):
    for name, same in (("olmoe", False), ("olmoe_normalized", True)):
        model, found = tiny_model(name), {}
        plain = torch.softmax(moe_layers(model)[0].router.weight @ torch.ones(32), -1)
        for rescale in (False, True):
            with without_experts(model, REMOVED, rescale=rescale), recorded_routing(model) as calls:
                found[rescale] = logits_of(model)
                _, logits, weights, indices = calls[0]
                assert not torch.isin(indices, torch.tensor(REMOVED[0])).any()
                if not (same or rescale):
                    torch.testing.assert_close(weights, torch.softmax(logits, -1).gather(-1, indices))
        assert torch.allclose(found[False], found[True], atol=2e-6) == same
        assert plain.shape == (8,)


def test_in_groups_every_token_still_finds_its_experts(recorded_routing):
    """Four groups of two, three kept, K = 3: of eight experts five have to be left, wherever the others lie."""
    model = tiny_model("deepseek_v2_grouped")
    layers = moe_layers(model)
    assert [least_left(layer) for layer in layers] == [5, 5]
    assert least_left(moe_layers(tiny_model())[0]) == 3
    for gone in ([0, 2, 4], [0, 1, 2], [5, 6, 7]):
        for rescale in (False, True):
            with without_experts(model, {0: gone, 1: gone}, rescale=rescale), recorded_routing(model) as calls:
                logits_of(model)
            assert not any(torch.isin(indices, torch.tensor(gone)).any() for *_, indices in calls)


def test_afterwards_everything_is_as_it_was():
    model = tiny_model()
    before, kinds = logits_of(model), [type(layer.router) for layer in moe_layers(model)]
    with pytest.raises(KeyError), without_experts(model, REMOVED, rescale=True):
        raise KeyError
    assert torch.equal(logits_of(model), before)
    assert [type(layer.router) for layer in moe_layers(model)] == kinds


def test_a_tuned_model_keeps_its_bias_and_the_condensers_that_are_left():
    model = attach(tiny_model(), RoutingConfig())
    set_condensers(model, {0: [1], 1: [4]})
    with torch.no_grad():
        for layer in moe_layers(model):
            layer.router.selection_bias.normal_()
    before, biases = logits_of(model), copy.deepcopy([layer.router.selection_bias for layer in moe_layers(model)])
    with without_experts(model, REMOVED, rescale=False):
        routers = [layer.router for layer in moe_layers(model)]
        assert [router.condenser_ids.tolist() for router in routers] == [[], [4], []]
        assert torch.equal(routers[0].selection_bias[[0, 2]], biases[0][[0, 2]])
        assert not torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(model), before)
    assert [layer.router.condenser_ids.tolist() for layer in moe_layers(model)] == [[1], [4], []]


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({3: [0]}, "MoE layers 0 to 2; got layer 3"),
        ({0: [8]}, "experts 0 to 7"),
        ({0: [1, 1]}, "experts 0 to 7"),
        ({1: [0, 1, 2, 3, 4, 5]}, "3 have to be left; got 2"),
    ],
)
def test_what_cannot_be_taken_out_is_refused(removed, message):
    with pytest.raises(RoutingError, match=message), without_experts(tiny_model(), removed, rescale=False):
        pass
    with without_experts(tiny_model(), {1: [0, 1, 2, 3, 4]}, rescale=False):
        pass
