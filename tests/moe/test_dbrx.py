"""DBRX: the block chooses, by the logits of its router; the policy is on the block's method."""

import pytest
import torch

from expert_condenser import RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.functional.routing import route
from expert_condenser.functional.scoring import Scoring, mixture_weights
from expert_condenser.moe.layers import expert_norms
from expert_condenser.moe.own_types import stock_class
from expert_condenser.moe.parameters import parameter_groups
from expert_condenser.moe.usage import measure_usage
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.testing.families import TINY_FAMILIES
from tests.finetune import tokenizer

EIGHTHS = torch.tensor([[4.0, 2.0, 1.0, 0.5, 0.5]], dtype=torch.float64).log()
"""Logits whose softmax is 1/2, 1/4, 1/8, 1/16, 1/16."""
NONE = torch.zeros(0, dtype=torch.int64)
NORMS = {
    None: lambda chosen: 1.0,
    1.0: sum,
    2.0: lambda chosen: sum(s * s for s in chosen) ** 0.5,
    3.0: lambda chosen: sum(s**3 for s in chosen) ** (1 / 3),
}


def scoring(order):
    return Scoring(float32=False, normalize=order is not None, norm_order=order, weights_in_float32=True)


@pytest.mark.parametrize("order", NORMS)
def test_the_chosen_scores_are_divided_by_their_norm(order):
    weights, indices = route(EIGHTHS, torch.zeros(5), NONE, top_k=2, scoring=scoring(order))
    assert indices.tolist() == [[0, 1]]
    norm = NORMS[order]([1 / 2, 1 / 4])
    assert weights[0].tolist() == pytest.approx([1 / 2 / norm, 1 / 4 / norm], rel=1e-14)
    weights, indices = route(EIGHTHS, torch.zeros(5), torch.tensor([3]), top_k=2, scoring=scoring(order))
    norm = NORMS[order]([1 / 2, 1 / 16])
    found = dict(zip(indices[0].tolist(), weights[0].tolist(), strict=True))
    assert found == pytest.approx({0: 1 / 2 / norm, 3: 1 / 16 / norm}, rel=1e-14)
    dense = mixture_weights(EIGHTHS, torch.tensor([[0, 3]]), scoring(order))
    assert dense[0].tolist() == pytest.approx([s / 16 / norm for s in (8, 4, 2, 1, 1)], rel=1e-14)


def test_the_block_asks_the_policy_and_adds_the_weighed_outputs():
    model = attach(tiny_model("dbrx").double(), RoutingConfig())
    set_condensers(model, {0: [6]})
    block = model.transformer.blocks[0].ffn
    hidden = torch.randn(1, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scores = (hidden[0] @ block.router.layer.weight.T).softmax(-1)
    w1, v1, w2 = (getattr(block.experts.mlp, name).view(8, 20, 32) for name in ("w1", "v1", "w2"))
    expected = torch.zeros(5, 32, dtype=torch.float64)
    for token in range(5):
        chosen = [6, *scores[token].index_fill(0, torch.tensor(6), -1.0).topk(2).indices.tolist()]
        for i in chosen:
            x = hidden[0, token]
            output = (torch.nn.functional.silu(w1[i] @ x) * (v1[i] @ x)) @ w2[i]
            expected[token] += scores[token, i] / scores[token, chosen].sum() * output
    assert torch.allclose(block(hidden)[0], expected, rtol=1e-10, atol=1e-12)
    set_condensers(model, {0: [7]})
    assert not torch.allclose(block(hidden)[0], expected, rtol=1e-3)


def test_the_seam_is_the_block_and_the_parameters_are_what_they_are():
    model = tiny_model("dbrx")
    layer = moe_layers(model)[0]
    assert (layer.name, layer.block, layer.gate) == (
        "transformer.blocks.0.ffn",
        "transformer.blocks.0.ffn",
        "transformer.blocks.0.ffn.router",
    )
    groups = parameter_groups(model, moe_layers(model))
    prefix = "transformer.blocks.0."
    assert {name.removeprefix(prefix): group for name, group in groups.items() if name.startswith(prefix)} == {
        "norm_attn_norm.norm_1.weight": "norms",
        "norm_attn_norm.attn.Wqkv.weight": "attention",
        "norm_attn_norm.attn.out_proj.weight": "attention",
        "norm_attn_norm.norm_2.weight": "norms",
        "ffn.router.layer.weight": "router",
        "ffn.experts.mlp.w1": "routed experts",
        "ffn.experts.mlp.v1": "routed experts",
        "ffn.experts.mlp.w2": "routed experts",
    }
    attach(model, RoutingConfig())
    assert type(layer.router).__name__ == "CondenserDbrxFFN"
    assert "transformer.blocks.0.ffn.selection_bias" in model.state_dict()
    assert type(detach(model)) is stock_class("dbrx")
    assert type(layer.router).__name__ == "DbrxFFN"
    assert not {"rule", "scoring", "attachment", "counter", "listeners"} & vars(layer.router).keys()


def test_the_norm_of_an_expert_is_that_of_its_rows():
    layer = moe_layers(tiny_model("dbrx"))[0]
    mlp = layer.experts.mlp
    with torch.no_grad():
        for weight in (mlp.w1, mlp.v1, mlp.w2):
            weight[3 * 20 : 4 * 20] = 0.5
    expected = torch.stack([p.view(8, -1).pow(2).sum(-1) for p in (mlp.w1, mlp.v1, mlp.w2)]).sum(0).sqrt()
    assert torch.allclose(expert_norms(layer), expected)
    assert expert_norms(layer)[3].item() == pytest.approx((3 * 20 * 32 * 0.25) ** 0.5)


def test_usage_of_a_stock_block_is_that_of_a_counted_one():
    rows = [tokenizer()(text)["input_ids"] for text in ("a b c d e", "f g h")]
    model = tiny_model("dbrx", vocab_size=len(tokenizer()))
    stock = measure_usage(model, tokenizer(), rows)
    assert stock.counts.sum(-1).tolist() == [3 * sum(map(len, rows))] * 3
    assert torch.allclose(stock.gate_mass.sum(-1), torch.full((3,), float(sum(map(len, rows))), dtype=torch.float64))
    counted = measure_usage(attach(model, RoutingConfig()), tokenizer(), rows)
    assert torch.equal(counted.counts, stock.counts)
    assert torch.equal(counted.gate_mass, stock.gate_mass)


def test_the_noise_of_its_router_is_the_family_s():
    options = {**TINY_FAMILIES["dbrx"]["ffn_config"], "moe_jitter_eps": 0.1}

    def logits(model, seed):
        torch.manual_seed(seed)
        return model.train()(input_ids=tiny_batch(2, 9)).logits

    stock, attached = (
        tiny_model("dbrx", ffn_config=options),
        attach(tiny_model("dbrx", ffn_config=options), RoutingConfig()),
    )
    assert torch.equal(logits(attached, 0), logits(stock, 0))
    assert not torch.equal(logits(attached, 1), logits(stock, 0))


def test_what_stock_transformers_does_with_its_config():
    """As of transformers 5.23, and followed: `attn_config.rope_theta` has to be there, and turns nothing."""
    attention = TINY_FAMILIES["dbrx"]["attn_config"]
    first, other = (tiny_model("dbrx", attn_config={**attention, "rope_theta": theta}) for theta in (1e4, 5e5))
    assert torch.equal(first(tiny_batch(1, 40)).logits, other(tiny_batch(1, 40)).logits)
    turned = tiny_model("dbrx", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert not torch.equal(first(tiny_batch(1, 40)).logits, turned(tiny_batch(1, 40)).logits)
    with pytest.raises(AttributeError, match="rope_theta"):
        tiny_model("dbrx", attn_config={"kv_n_heads": 2, "clip_qkv": 8.0})
