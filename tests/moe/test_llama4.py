"""Llama 4: logits choose, their sigmoid weighs the input of an expert, and condensers come besides the one chosen."""

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import route
from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.usage import measure_usage
from expert_condenser.testing import tiny_batch, tiny_model
from tests.finetune import tokenizer
from tests.model_comparison import assert_same, set_bias

ADDITIVE = RoutingConfig(budget="additive")
SCORING = Scoring(function="sigmoid", float32=False, by_logits=True, takes_twice=False)
ODDS = torch.tensor([[0.25, 0.5, 0.75, 0.125, 0.0625]], dtype=torch.float64).logit()
NONE = torch.zeros(0, dtype=torch.int64)


def test_the_weight_is_the_sigmoid_of_its_own_logit_whoever_else_is_chosen():
    weights, indices = route(ODDS, torch.zeros(5), NONE, top_k=1, scoring=SCORING)
    assert indices.tolist() == [[2]]
    assert weights[0].tolist() == pytest.approx([0.75], rel=1e-15)
    bias = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0])
    weights, indices = route(ODDS, bias, torch.tensor([4, 2]), top_k=1, scoring=SCORING, config=ADDITIVE)
    assert indices.tolist() == [[0, 4, 2]], "the bias chooses, the condensers follow"
    assert weights[0].tolist() == pytest.approx([0.25, 0.0625, 0.75], rel=1e-15), "and it does not weigh"


def test_the_block_adds_the_experts_of_their_weighed_inputs():
    model = attach(tiny_model("llama4_text").double(), ADDITIVE)
    set_condensers(model, {0: [6, 3]})
    layer, block = moe_layers(model)[0], model.model.layers[0].feed_forward
    hidden = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scores, logits = layer.router(hidden)
    assert torch.equal(logits, hidden @ layer.router.weight.T)
    assert ((scores > 0).sum(-1) == 3).all()
    inside, outside = block.shared_expert(hidden), block.shared_expert(hidden)

    def expert(i, x):
        gate, up = (x @ layer.experts.gate_up_proj[i]).chunk(2)
        return (torch.nn.functional.silu(gate) * up) @ layer.experts.down_proj[i]

    for token, x in enumerate(hidden):
        best = logits[token].index_fill(0, torch.tensor([6, 3]), -torch.inf).argmax().item()
        for i in (best, 6, 3):
            weight = logits[token, i].sigmoid()
            inside[token] += expert(i, weight * x)
            outside[token] += weight * expert(i, x)
    found = block(hidden)[0]
    assert torch.allclose(found, inside, rtol=1e-5, atol=1e-9), "the family's sigmoid is in float32"
    assert not torch.allclose(found, outside, rtol=1e-2, atol=1e-5), "control: weights on the output"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 9, 13, 31])
def test_off_is_the_stock_model_for_any_number_of_tokens(length, dtype):
    """Vectors and what is left over get different sigmoids: the weights are made in the shape of the family's."""

    def step(model):
        model.zero_grad()
        logits = model(input_ids=tiny_batch(2, length), use_cache=False).logits
        logits.float().pow(2).mean().backward()
        return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    stock, attached = tiny_model("llama4_text").to(dtype), attach(tiny_model("llama4_text").to(dtype), ADDITIVE)
    assert_same(step(attached), step(stock))
    set_bias(attached, 5, 1e-30)
    assert_same(step(attached), step(stock))
    set_bias(attached, 5, 3.0)
    assert not torch.equal(step(attached)[0], step(stock)[0])


def test_usage_is_read_from_a_stock_router_and_from_one_with_condensers():
    stock = tiny_model("llama4_text", vocab_size=len(tokenizer()))
    rows = [tokenizer()(text)["input_ids"] for text in ("a b c d e", "f g h")]
    tokens = sum(map(len, rows))
    usage = measure_usage(stock, tokenizer(), rows)
    assert usage.counts.sum(-1).tolist() == [tokens] * 3
    model = attach(tiny_model("llama4_text", vocab_size=len(tokenizer())), ADDITIVE)
    same = measure_usage(model, tokenizer(), rows)
    assert torch.equal(same.counts, usage.counts)
    assert torch.equal(same.gate_mass, usage.gate_mass)
    set_condensers(model, {0: [6, 3]})
    more = measure_usage(model, tokenizer(), rows)
    assert more.counts[0].sum() == 3 * tokens
    assert more.counts[0, 6] == more.counts[0, 3] == tokens
    assert all(not layer.router.listeners for layer in moe_layers(model))


def test_what_has_no_meaning_for_it_is_refused():
    with pytest.raises(RoutingError, match=r"Set budget='additive'"):
        attach(tiny_model("llama4_text"), RoutingConfig(num_condensers=1))
    with pytest.raises(RoutingError, match="takes every expert once"):
        attach(tiny_model("llama4_text"), RoutingConfig(preset="reference"))
    three = attach(tiny_model("llama4_text", num_experts_per_tok=3), RoutingConfig(num_condensers=2))
    set_condensers(three, {layer: [1, 2] for layer in range(3)})
