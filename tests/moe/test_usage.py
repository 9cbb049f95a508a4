import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.moe.usage import measure_usage
from expert_condenser.testing import tiny_model
from tests.finetune import tokenizer

TEXTS = ["a few words", "0123456789", "to learn merges from, a few", "x"]


def ids(texts):
    return [tokenizer()(text)["input_ids"] for text in texts]


def test_usage_is_that_of_the_real_tokens_whatever_the_batch():
    model = tiny_model(vocab_size=len(tokenizer()))
    alone = [measure_usage(model, tokenizer(), ids([text])) for text in TEXTS]
    together = measure_usage(model, tokenizer(), ids(TEXTS))
    tokens = sum(map(len, ids(TEXTS)))
    assert torch.equal(sum(usage.counts for usage in alone), together.counts)
    assert torch.allclose(sum(usage.gate_mass for usage in alone), together.gate_mass, rtol=1e-6)
    assert together.counts.shape == together.gate_mass.shape == (3, 8)
    assert together.counts.sum(dim=1).tolist() == [3 * tokens] * 3
    assert not torch.equal(together.counts[0], together.counts[1])


def test_gate_mass_is_the_sum_of_the_weights_of_the_real_tokens(recorded_routing):
    model = tiny_model(vocab_size=len(tokenizer()))
    text = ids(TEXTS[:1])
    with recorded_routing(model) as calls:
        found = measure_usage(model, tokenizer(), text).gate_mass
    for layer, _, weights, indices in calls:
        expected = [weights[indices == expert].double().sum().item() for expert in range(8)]
        assert found[layer].tolist() == pytest.approx(expected)
    assert not torch.allclose(found * 1.0, measure_usage(model, tokenizer(), text).counts.double())


def test_condensers_are_used_by_every_token():
    model = attach(tiny_model(vocab_size=len(tokenizer())), RoutingConfig(num_condensers=1))
    set_condensers(model, {0: [5], 1: [2], 2: [7]})
    usage = measure_usage(model, tokenizer(), ids(TEXTS)).counts
    tokens = sum(map(len, ids(TEXTS)))
    assert [usage[layer, expert].item() for layer, expert in ((0, 5), (1, 2), (2, 7))] == [tokens] * 3
    assert all(not layer.router._forward_hooks for layer in moe_layers(model))
