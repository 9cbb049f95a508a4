"""Phi-MoE: as in the family without a policy, which samples while it trains; with one, deterministic."""

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.errors import RoutingError
from expert_condenser.moe.attach import set_top_k
from expert_condenser.testing import tiny_batch, tiny_model
from tests.model_comparison import assert_same


def step(model, seed=0):
    """Logits and gradients of a forward in training mode."""
    torch.manual_seed(seed)
    model.zero_grad()
    logits = model.train()(input_ids=tiny_batch(), use_cache=False).logits
    logits.pow(2).mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_without_a_policy_training_is_the_family_s_own(noise):
    stock = tiny_model("phimoe", input_jitter_noise=noise)
    expected = step(stock)
    assert_same(step(attach(tiny_model("phimoe", input_jitter_noise=noise), None)), expected)
    assert not torch.equal(step(stock, seed=1)[0], expected[0]), "control: it samples"


def test_with_a_policy_training_is_deterministic_and_that_of_evaluation():
    model = attach(tiny_model("phimoe"), RoutingConfig())
    first = step(model)
    assert_same(step(model, seed=1), first)
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=tiny_batch()).logits, first[0])
        assert torch.equal(tiny_model("phimoe")(input_ids=tiny_batch()).logits, first[0])


def test_noise_on_the_input_of_a_router_reaches_the_experts_as_in_the_family():
    model = attach(tiny_model("phimoe", input_jitter_noise=0.1), RoutingConfig())
    layer = moe_layers(model)[0]
    hidden = torch.ones(5, 32)
    layer.router.train()(noisy := hidden.clone())
    assert not torch.equal(noisy, hidden)
    assert ((noisy - 1).abs() <= 0.1).all()
    layer.router.eval()(quiet := hidden.clone())
    assert torch.equal(quiet, hidden)


def test_the_number_of_experts_per_token_is_built_in():
    model = tiny_model("phimoe", num_experts_per_tok=4)
    assert {layer.top_k for layer in moe_layers(model)} == {2}, "what the router does, not what the config says"
    with pytest.raises(RoutingError, match="take 2 experts per token whatever its config says"):
        set_top_k(model, 3)
