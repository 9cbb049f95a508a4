"""Llama 4 on the chosen experts alone is the stock block: bit for bit but for the rounding of weight gradients."""

import pytest
import torch

from expert_condenser import RoutingConfig, attach, load_model, moe_layers, set_condensers
from expert_condenser.moe import sparse_block
from expert_condenser.moe.own_types import stock_class
from expert_condenser.moe.slices import train_slices
from expert_condenser.moe.sparse_block import run_sparsely
from expert_condenser.testing import tiny_batch, tiny_model

IDS = tiny_batch(3, 11)


def model_of(implementation, *, policy=True, top_k=1, dtype=torch.float32, prepare=lambda model: None):
    model = tiny_model("llama4_text", num_experts_per_tok=top_k).to(dtype)
    run_sparsely(model, implementation)
    if policy:
        attach(model, RoutingConfig(budget="additive"))
        set_condensers(model, {0: [6, 3], 2: [1]})
    prepare(model)
    return model


def step(model):
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().pow(2).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found, expected, rtol):
    assert torch.allclose(found[0], expected[0], rtol=rtol, atol=rtol * expected[0].abs().max().item())
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, rtol=rtol, atol=rtol * gradient.abs().max().item()), name


@pytest.mark.parametrize("policy", [False, True], ids=["stock", "condensers"])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("implementation", ["sorted_mm", "sorted_mm_recompute"])
def test_the_chosen_experts_are_all_that_counts(policy, top_k, implementation):
    """In float64, forward and backward, with and without condensers."""
    options = {"policy": policy, "top_k": top_k, "dtype": torch.float64}
    expected = step(model_of(None, **options))
    assert_close(step(model_of(implementation, **options)), expected, 1e-6)
    assert not torch.allclose(step(model_of(implementation, **{**options, "top_k": 2}))[0], expected[0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_in_the_dtypes_of_training(dtype):
    expected = step(model_of(None, dtype=dtype))
    assert_close(step(model_of("sorted_mm", dtype=dtype)), expected, 1e-4 if dtype == torch.float32 else 0.1)


def test_slices_train_alone():
    def sliced(model):
        for layer in moe_layers(model):
            train_slices(layer, [1, 6])

    expected = step(model_of(None, prepare=sliced))
    found = step(model_of("sorted_mm", prepare=sliced))
    assert any("trained_slices" in name for name in expected[1])
    assert_close(found, expected, 1e-4)


def test_only_chosen_rows_are_computed(monkeypatch):
    rows = []
    kernel = sparse_block.sorted_experts
    monkeypatch.setattr(
        sparse_block, "sorted_experts", lambda hidden, *rest: rows.append(len(hidden)) or kernel(hidden, *rest)
    )
    step(model_of("sorted_mm"))
    assert rows == [3 * IDS.numel(), IDS.numel(), 2 * IDS.numel()], "K + R of every layer, of 8"


def test_load_model_runs_it_unless_it_is_asked_not_to(tmp_path):
    tiny_model("llama4_text").save_pretrained(tmp_path)
    blocks = {
        name: type(load_model(tmp_path, experts_implementation=name).model.layers[0].feed_forward).__name__
        for name in ("sorted_mm", "eager")
    }
    assert blocks == {"sorted_mm": "SparseLlama4TextMoe", "eager": "Llama4TextMoe"}
    loaded = load_model(tmp_path, experts_implementation="sorted_mm")
    assert type(loaded) is stock_class("llama4_text")
    loaded.save_pretrained(tmp_path / "again")
    assert list(stock_class("llama4_text").from_pretrained(tmp_path / "again").state_dict()) == list(
        loaded.state_dict()
    )
    run_sparsely(tiny_model("olmoe"), "sorted_mm")
    run_sparsely(torch.nn.Linear(2, 2), "sorted_mm")
