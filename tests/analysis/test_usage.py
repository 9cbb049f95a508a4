import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.analysis.usage import measure_usage
from expert_condenser.testing import tiny_model
from tests.finetune import tokenizer

TEXTS = ["a few words", "0123456789", "to learn merges from, a few", "x"]


def test_usage_is_that_of_the_real_tokens_whatever_the_batch():
    model = tiny_model(vocab_size=len(tokenizer()))
    alone = sum(measure_usage(model, tokenizer(), [text]) for text in TEXTS)
    together = measure_usage(model, tokenizer(), TEXTS)
    tokens = sum(len(tokenizer()(text)["input_ids"]) for text in TEXTS)
    assert torch.equal(alone, together)
    assert together.shape == (3, 8)
    assert together.sum(dim=1).tolist() == [3 * tokens] * 3
    assert not torch.equal(together[0], together[1])


def test_condensers_are_used_by_every_token():
    model = attach(tiny_model(vocab_size=len(tokenizer())), RoutingConfig(num_condensers=1))
    set_condensers(model, {0: [5], 1: [2], 2: [7]})
    usage = measure_usage(model, tokenizer(), TEXTS)
    tokens = sum(len(tokenizer()(text)["input_ids"]) for text in TEXTS)
    assert [usage[layer, expert].item() for layer, expert in ((0, 5), (1, 2), (2, 7))] == [tokens] * 3
    assert all(not layer.router._forward_hooks for layer in moe_layers(model))
