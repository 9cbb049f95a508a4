"""LongCat-Flash: the last experts are the identity. They compete and are counted, and never become condensers."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError, RoutingError, TrainingError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.methods.esft import EsftGate, expert_shares, select_experts
from expert_condenser.moe.layers import expert_norms
from expert_condenser.moe.own_types import stock_class
from expert_condenser.moe.slices import train_slices
from expert_condenser.testing import tiny_batch, tiny_model

E, WEIGHTED, TOP_K = 8, 6, 3


def one_step(model):
    model.train()(input_ids=tiny_batch(), labels=tiny_batch(), use_cache=False).loss.backward()
    return torch.stack([layer.router.counter.counts for layer in moe_layers(model)])


def test_identity_experts_compete_and_are_counted():
    model = tiny_model("longcat_flash")
    method = METHODS["condenser"](MethodConfig(bias_step=0.5, num_condensers=Allocation.parse("1")))
    method.prepare(model)
    counts = one_step(model)
    assert counts.shape == (3, E)
    assert counts.sum(dim=-1).tolist() == [tiny_batch().numel() * TOP_K] * 3
    assert (counts[:, WEIGHTED:] > 0).all()
    method.step(counts)
    moved = torch.stack([layer.router.selection_bias for layer in moe_layers(model)])[:, WEIGHTED:]
    assert torch.equal(moved, 0.5 * torch.sign(counts * E - counts.sum(-1, keepdim=True)).float()[:, WEIGHTED:])
    assert moved.all()


def test_the_identity_returns_the_hidden_state_times_its_weight():
    model = attach(tiny_model("longcat_flash"), RoutingConfig())
    layer, block = moe_layers(model)[0], model.model.layers[0].mlp
    layer.router.selection_bias[WEIGHTED:] = 1e3
    layer.router.selection_bias[0] = 1e2
    hidden = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    logits, weights, indices = layer.router(hidden)
    assert {frozenset(row) for row in indices.tolist()} == {frozenset({0, 6, 7})}
    assert torch.allclose(weights, 1.5 * logits.softmax(-1).gather(-1, indices), rtol=1e-6)
    one = layer.experts(hidden[0], torch.zeros(5, 2, dtype=torch.int64), torch.tensor([[1.0, 0.0]]).expand(5, 2))
    dense = torch.zeros(5, E).scatter(-1, indices, weights.detach())
    expected = dense[:, :1] * one + dense[:, WEIGHTED:].sum(-1, keepdim=True) * hidden[0]
    assert torch.allclose(block(hidden)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ids", [[6], [0, 7]])
def test_an_identity_expert_is_refused_as_a_condenser(ids, tmp_path):
    model = attach(tiny_model("longcat_flash"), RoutingConfig())
    with pytest.raises(RoutingError, match=r"distinct expert ids in 0\.\.5; got"):
        set_condensers(model, {0: ids})
    set_condensers(model, {0: [5]})
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert load_model(tmp_path).config.condenser["condensers_per_layer"] == [1, 0, 0]
    tensors["model.layers.0.mlp.router.condenser_ids"] = torch.tensor([6])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"condensers are distinct expert ids in 0\.\.5; got \[6\]"):
        load_model(tmp_path)


@pytest.mark.parametrize("rule", ["lowest_bias", "highest_bias", "least_used", "smallest_norm", "random"])
def test_no_rule_chooses_one(rule):
    """The identity experts come first by each of these: lowest or highest bias, no usage, no norm."""
    model = tiny_model("longcat_flash")
    options = {"selection_seed": 3} if rule == "random" else {}
    config = MethodConfig(condenser_rule=rule, num_condensers=Allocation.parse("2"), **options)
    method = METHODS["condenser"](config, "condense")
    method.usage = torch.arange(1, E + 1).flip(0).repeat(3, 1)
    layers = moe_layers(attach(model, method.routing))
    for layer in layers:
        layer.router.selection_bias.copy_(torch.arange(E).flip(0) * (1.0 if rule == "lowest_bias" else -1.0))
    method.layers = layers
    chosen = method.choose(model)
    assert all(len(ids) == 2 and max(ids) < WEIGHTED for ids in chosen.values())
    if rule in ("lowest_bias", "least_used", "highest_bias"):
        assert set(map(tuple, chosen.values())) == {(5, 4)}
    if rule == "smallest_norm":
        for index, layer in enumerate(layers):
            assert chosen[index] == expert_norms(layer)[:WEIGHTED].argsort()[:2].tolist()


def test_there_are_as_many_condensers_as_experts_with_weights_at_most():
    method = METHODS["condenser"](MethodConfig(num_condensers=Allocation.parse("7"), budget="additive"))
    with pytest.raises(RoutingError, match="at most"):
        method.prepare(tiny_model("longcat_flash", moe_topk=1))


def test_esft_ranks_the_experts_that_have_weights():
    """Half of all selections are the identity's; what reaches 60 % of the rest is chosen."""
    model, method = tiny_model("longcat_flash"), EsftGate(MethodConfig(top_p=0.6))
    counts = torch.tensor([[1, 2, 3, 4, 0, 0, 5, 5]]).repeat(3, 1)
    chosen = method.choose(moe_layers(model), expert_shares(counts)).experts
    assert chosen == {"0": [3, 2], "1": [3, 2], "2": [3, 2]}
    assert select_experts(expert_shares(counts), 0.6)[0] == [6, 7, 3], "control: with the identity's share"
    layer = moe_layers(model)[0]
    with pytest.raises(TrainingError, match=r"distinct ids in 0\.\.5"):
        train_slices(layer, [6])
    train_slices(layer, [0, 5])
    assert {name: len(p) for name, p in layer.experts.trained_slices.items()} == {"gate_up_proj": 2, "down_proj": 2}


def test_densemixer_mixes_the_identity_in():
    """The router's gradient has `<x, dL/dy>` of the identity, for the tokens that did not choose it."""
    model, seen = tiny_model("longcat_flash"), {}
    METHODS["densemixer"]().prepare(model)
    layer = moe_layers(model)[-1]

    def before_the_mixture(experts, args, output):
        seen["hidden"], (dense, seen["chosen"]) = args[0].detach(), layer.router.mixture
        dense.register_hook(lambda gradient: seen.update(products=gradient))
        output.register_hook(lambda gradient: seen.update(gradient=gradient))

    handle = layer.experts.register_forward_hook(before_the_mixture)
    layer.experts._forward_hooks.move_to_end(handle.id, last=False)
    one_step(model)
    expected = (seen["hidden"] * seen["gradient"]).sum(-1)
    for identity in (6, 7):
        missed = (seen["chosen"] != identity).all(-1)
        assert missed.any()
        assert not missed.all()
        assert torch.allclose(seen["products"][missed, identity], expected[missed], rtol=1e-4, atol=1e-9)
        assert not seen["products"][~missed, identity].any(), "of the chosen, the output itself has the gradient"
    assert not torch.allclose(seen["products"][:, 0], expected, rtol=1e-1, atol=0), "control: another expert"


def test_the_stock_class_wants_rows_for_the_identity_in_one_fused_weight_and_not_in_the_other(tmp_path):
    """As of transformers 5.23: a checkpoint of the experts with weights alone does not load, and says so."""
    tiny_model("longcat_flash").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    mine = [key for key in tensors if ".experts.6." in key or ".experts.7." in key]
    assert {key.rpartition("experts.")[2] for key in mine} == {
        f"{i}.{name}.weight" for i in (6, 7) for name in ("gate_proj", "up_proj")
    }
    assert stock_class("longcat_flash").from_pretrained(tmp_path) is not None
    save_file({k: v for k, v in tensors.items() if k not in mine}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        stock_class("longcat_flash").from_pretrained(tmp_path)
