"""Llama 4 and Nemotron 3 Omni have no base model of their own: TRL gets the hidden states of a whole forward."""

import copy

import pytest
import torch

from expert_condenser import RoutingConfig, attach, detach
from expert_condenser.moe.own_types import stock_class
from expert_condenser.testing import tiny_batch, tiny_model

IDS = tiny_batch(2, 9)
NAMES = ("llama4_text", "llama4", "nemotron_h_omni")
every_family = pytest.mark.parametrize("name", NAMES)


@every_family
@pytest.mark.parametrize("policy", [None, RoutingConfig()], ids=["counted", "with a policy"])
def test_the_head_on_the_hidden_states_gives_the_logits(name, policy):
    stock = tiny_model(name)
    assert stock.base_model is stock
    model = copy.deepcopy(attach(tiny_model(name), policy))
    hidden = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    assert torch.equal(model.get_output_embeddings()(hidden), stock(input_ids=IDS, use_cache=False).logits)
    assert not torch.equal(hidden, model.base_model(input_ids=IDS.flip(0), use_cache=False).last_hidden_state)
    assert model.base_model.model is model, "a copy has its own"
    assert list(detach(model).state_dict()) == list(stock.state_dict())
    assert model.base_model is model
    assert model.base_model_prefix == stock_class(name).base_model_prefix


def test_images_are_in_the_hidden_states():
    model = attach(tiny_model("llama4", image_token_id=95), None)
    model.config.image_token_id = 95
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = model.get_image_features(pixel_values=pixels, return_dict=True).last_hidden_state
    ids = torch.full((1, features.shape[:-1].numel() + 3), 7)
    ids[:, 1:-2] = 95
    first = model.base_model(input_ids=ids, pixel_values=pixels, use_cache=False).last_hidden_state
    other = model.base_model(input_ids=ids, pixel_values=-pixels, use_cache=False).last_hidden_state
    assert torch.equal(first[:, 0], other[:, 0]), "before the image"
    assert not torch.equal(first[:, -1], other[:, -1])


def test_a_family_with_a_base_model_keeps_it():
    model = attach(tiny_model("olmoe"), RoutingConfig())
    assert model.base_model is model.model
