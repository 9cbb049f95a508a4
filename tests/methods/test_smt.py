"""`smt`: the blocks with the largest warm-up gradient train, and nothing else, to the bit. And `router_only`."""

import re

import pytest
import torch

from expert_condenser import METHODS, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.methods.smt import SmtConfig, gradient_of_blocks, matrices_of, select_blocks
from expert_condenser.moe.blocks import BLOCKS, block_view, places_of, train_blocks
from expert_condenser.moe.parameters import count_trainable
from expert_condenser.moe.probe import Batch
from expert_condenser.testing import tiny_batch, tiny_model

IDS = tiny_batch(3, 9)
BATCHES = [Batch(IDS, torch.ones_like(IDS), IDS)]
CONFIG = SmtConfig(smt_share=0.1, smt_block=8)


def prepared(family="olmoe"):
    method, model = METHODS["smt"](CONFIG), tiny_model(family)
    method.probe(model, BATCHES)
    method.prepare(model)
    return method, model


def test_blocks_are_chosen_over_all_matrices():
    scores = {"a": torch.tensor([[1.0, 5.0, 2.0], [9.0, 5.0, 0.0]]), "b": torch.tensor([[5.0], [7.0]])}
    assert select_blocks(scores, 0.5) == {"a": [(0, 1), (1, 0), (1, 1)], "b": [(1, 0)]}, "of the ties those of a"
    assert select_blocks(scores, 0.01) == {"a": [(1, 0)], "b": []}


def test_the_score_is_the_mean_absolute_gradient_of_a_block():
    model, two = tiny_model(), [Batch(IDS[:1], torch.ones_like(IDS[:1]), IDS[:1]), *BATCHES]
    matrices = matrices_of(model, 8)
    assert len(matrices) == 3 * len(moe_layers(model)), "Q, K and V of every layer"
    assert not any("o_proj" in name for name in matrices)
    found = gradient_of_blocks(model, matrices, BATCHES, 8)
    model(input_ids=IDS, labels=IDS).loss.backward()
    name = "model.layers.2.self_attn.v_proj"
    gradient = model.get_parameter(f"{name}.weight").grad
    assert found[name][3, 1].item() == pytest.approx(gradient[24:32, 8:16].abs().mean().item(), rel=1e-4)
    assert found[name][3, 1].item() != pytest.approx(gradient[8:16, 24:32].abs().mean().item(), rel=1e-2)
    signed = gradient_of_blocks(model, matrices, two, 8)[name]
    assert (signed != found[name]).all(), "absolute values are added up batch by batch"


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "deepseek_v2"])
def test_only_the_blocks_move(family):
    method, model = prepared(family)
    start = tiny_model(family)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state = model.state_dict()
    assert state.keys() == start.state_dict().keys(), "a stock checkpoint"
    moved = {}
    for name, value in start.state_dict().items():
        if not torch.equal(value, state[name]):
            different = block_view((state[name] != value).float(), 8).amax(dim=(-1, -2))
            moved[name.removesuffix(".weight")] = [tuple(place) for place in different.nonzero().tolist()]
    assert moved == method.chosen
    assert moved


def test_the_gradient_is_that_of_the_whole_weight():
    method, model = prepared()
    assert torch.equal(model(input_ids=IDS).logits, tiny_model()(input_ids=IDS).logits)
    model(input_ids=IDS, labels=IDS).loss.backward()
    stock = tiny_model()
    stock(input_ids=IDS, labels=IDS).loss.backward()
    for name, places in method.chosen.items():
        whole = block_view(stock.get_parameter(f"{name}.weight").grad, 8)
        found = model.get_parameter(f"{name}.{BLOCKS}").grad
        assert torch.allclose(found, torch.stack([whole[place] for place in places]), rtol=1e-4, atol=1e-8)
        assert places_of(model.get_submodule(name)) == places
    counts = count_trainable(model, method.layers)
    trained = sum(count.trainable for count in counts.values())
    assert trained == 64 * sum(map(len, method.chosen.values())) == counts["attention"].trainable
    assert counts["attention"].total == count_trainable(stock, moe_layers(stock))["attention"].total


def test_a_load_reaches_the_blocks():
    linear, other = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16)
    train_blocks(linear, [(3, 1), (0, 0)], 4)
    linear.load_state_dict(other.state_dict())
    x = torch.randn(5, 8)
    assert torch.equal(linear(x), other(x))
    assert torch.equal(linear.get_parameter(BLOCKS)[1], other.weight[12:16, 4:8])
    assert not linear.bias.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smt_share": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"smt_share": 1.5}, "at most 1; got 1.5"),
        ({"smt_block": 0}, "at least 1; got 0 and 128"),
        ({"smt_rows": 0}, "at least 1; got 256 and 0"),
    ],
)
def test_options_without_a_meaning(options, message):
    with pytest.raises(TrainingError, match=re.escape(message)):
        SmtConfig(**options)


def test_what_is_missing_is_said():
    with pytest.raises(TrainingError, match="q_proj is 32 by 32, and smt_block is 256"):
        METHODS["smt"]().probe(tiny_model(), BATCHES)
    with pytest.raises(TrainingError, match="call probe"):
        METHODS["smt"](CONFIG).prepare(tiny_model())
    method = METHODS["smt"](CONFIG)
    method.chosen = {"model.layers.9.self_attn.q_proj": [(0, 0)]}
    with pytest.raises(TrainingError, match="of another model"):
        method.prepare(tiny_model())


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "gpt_oss"])
def test_router_only_trains_the_routers_and_nothing_else(family):
    model = tiny_model(family)
    METHODS["router_only"]().prepare(model)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    gates = tuple(f"{layer.gate}." for layer in moe_layers(model))
    assert trains == {name for name, _ in model.named_parameters() if name.startswith(gates)}
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in trains)
