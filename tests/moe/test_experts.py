"""`sorted_mm` in every family: the model that `eager` is, forward and backward; and stock where it would not be."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from expert_condenser import moe_layers
from expert_condenser.kernels.gating import Gate, SwiGlu
from expert_condenser.moe import experts as implementation
from expert_condenser.moe.experts import (
    NAME,
    RECOMPUTE,
    WithEmbeddedBiases,
    gate_of,
    is_decoding,
    is_exact_for,
    register_for_quantised,
    runs_stock,
)
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.slices import train_slices
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model
from tests.model_comparison import assert_same

IDS = tiny_batch(3, 11)
SWAPPABLE = [name for name in FAMILIES if hasattr(moe_layers(tiny_model(name))[0].experts, "is_transposed")]
"""Families whose experts go through transformers' interface; the others have a loop of their own."""

FLOAT32_INSIDE = {"beam", "inkling2", "inkling2_text"}
"""Their activation computes in float32 in every dtype."""


def in_eager_and_ours(model, run):
    """`run(model)` under both, and how often ours was called."""
    calls = []
    ours = implementation.sorted_experts
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implementation, "sorted_experts", lambda *args: calls.append(1) or ours(*args))
        for name in ("eager", NAME):
            for layer in moe_layers(model):
                layer.experts.config._experts_implementation_internal = name
            results.append(run(model))
            model.zero_grad()
    return *results, len(calls)


def outcome(model):
    logits = model(input_ids=IDS).logits
    logits.double().square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_most_families_have_swappable_experts():
    assert len(SWAPPABLE) >= 50
    assert set(TINY_CONFIGS) - {"olmoe_normalized", "deepseek_v2_grouped"} <= set(SWAPPABLE)


@pytest.mark.parametrize("family", SWAPPABLE)
def test_a_family_is_the_same_model(family):
    model = tiny_model(family)
    (logits, gradients), (our_logits, ours), calls = in_eager_and_ours(model, outcome)
    assert (calls > 0) == (family != "muse_spark")  # a norm stands behind its experts
    assert (our_logits - logits).abs().max() < 1e-5 * logits.abs().max()
    assert ours.keys() == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).abs().max() < 1e-4 * gradient.abs().max() + 1e-7 * largest, name


@pytest.mark.parametrize("family", sorted({*TINY_CONFIGS, *SWAPPABLE} - {"muse_spark"}))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_experts_alone_are_exact(family, dtype, tolerance):
    layer = moe_layers(tiny_model(family).to(dtype))[0]
    torch.manual_seed(0)
    hidden = torch.randn(19, layer.experts.down_proj.shape[1 + layer.experts.is_transposed], dtype=dtype)
    hidden.requires_grad_()
    weights = torch.rand(19, 3, dtype=dtype, requires_grad=True)
    indices = torch.stack([torch.randperm(8)[:3] for _ in range(19)])

    def run(experts):
        output = experts(hidden, indices, weights)
        wanted = [hidden, weights, *experts.parameters()]
        return [output.detach(), *torch.autograd.grad(output.square().sum(), wanted)]

    results = []
    for name in ("eager", NAME):
        layer.experts.config._experts_implementation_internal = name
        results.append(run(layer.experts))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= (1e-5 if family in FLOAT32_INSIDE else tolerance) * b.abs().max()


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_experts_that_train_as_slices(family):
    model = tiny_model(family)
    for layer in moe_layers(model):
        train_slices(layer, [5, 1])
    (logits, gradients), (our_logits, ours), calls = in_eager_and_ours(model, outcome)
    assert calls == len(moe_layers(model))
    assert torch.allclose(our_logits, logits, atol=1e-5)
    assert sum("trained_slices" in name for name in ours) >= 2 * len(moe_layers(model))
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-6), name


def test_autocast_computes_in_the_dtype_of_the_weights_as_grouped_mm_does():
    experts = moe_layers(tiny_model())[0].experts
    hidden, indices, weights = torch.randn(5, 32), torch.tensor([[1, 2, 3]] * 5), torch.rand(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = ALL_EXPERTS_FUNCTIONS[NAME](experts, hidden, indices, weights)
        stock = ALL_EXPERTS_FUNCTIONS["grouped_mm"](experts, hidden, indices, weights)
    assert torch.allclose(ours, stock, atol=1e-6)


def test_where_it_would_not_be_exact_the_stock_experts_run():
    experts = moe_layers(tiny_model())[0].experts
    hidden, indices = torch.randn(200, 32), torch.zeros(200, 3, dtype=torch.int64)
    assert is_exact_for(experts)
    assert not runs_stock(experts, hidden, indices)
    assert runs_stock(experts, hidden.to("meta"), indices)
    for name in ("_is_expert_parallel", "has_post_expert_norm"):
        setattr(experts, name, True)
        assert not is_exact_for(experts)
        assert runs_stock(experts, hidden, indices)
        setattr(experts, name, False)
    experts.act_fn = nn.PReLU()
    assert not is_exact_for(experts)


def test_a_gpu_runs_stock_experts_but_where_a_grouped_product_takes_no_rows():
    with FakeTensorMode(allow_non_fake_inputs=True):  # has the device of a tensor without the device
        hidden, indices = torch.empty(200, 32, device="cuda"), torch.zeros(200, 3, dtype=torch.int64, device="cuda")
    for width, whole in ((16, True), (18, False)):
        experts = moe_layers(tiny_model("qwen3_moe", moe_intermediate_size=width))[0].experts
        assert runs_stock(experts, hidden, indices) == whole
    assert not runs_stock(experts.double(), hidden, indices)


def test_quantised_experts_know_our_names():
    """A GPU's default is ours, and their class looks it up in a list of its own."""
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS

    register_for_quantised()
    for name in (NAME, RECOMPUTE):
        assert ALL_FP8_EXPERTS_FUNCTIONS.get_interface(name, None) is ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"]


def test_biases_by_embedding_are_those_of_stock_code():
    """On a GPU stock code adds up their gradients in bfloat16; in float32, on a CPU, both are the same function."""
    experts = moe_layers(tiny_model("gpt_oss"))[0].experts
    assert {name for name, _ in experts.named_parameters()} > {"gate_up_proj_bias", "down_proj_bias"}
    with torch.no_grad():
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            getattr(experts, name).normal_()
    hidden, weights = torch.randn(50, experts.hidden_size), torch.rand(50, 3)
    indices = torch.cat([torch.full((50, 1), 2), torch.randint(3, experts.num_experts, (50, 2))], dim=-1)
    outcomes = []
    for module in (experts, WithEmbeddedBiases(experts)):
        output = grouped_mm_experts_forward(module, hidden, indices, weights)
        outcomes.append((output, torch.autograd.grad(output.square().sum(), list(experts.parameters()))))
    (output, gradients), (ours, our_gradients) = outcomes
    assert torch.equal(ours, output)
    for one, other in zip(our_gradients, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_generation_steps_run_the_stock_experts():
    experts = moe_layers(tiny_model())[0].experts
    step, prompt = torch.zeros(5, 3, dtype=torch.int64), torch.zeros(200, 3, dtype=torch.int64)
    assert not is_decoding(experts, step)  # a training step, however small
    with torch.no_grad():
        assert is_decoding(experts, step)
        assert not is_decoding(experts, prompt)
        assert not is_decoding(experts.double(), step)  # stock has no float64


@pytest.mark.parametrize(("width", "dtype"), [(20, torch.bfloat16), (18, torch.float32)])
def test_rows_that_are_no_whole_16_bytes_run_ours(width, dtype):
    experts = moe_layers(tiny_model("qwen3_moe", moe_intermediate_size=width).to(dtype))[0].experts.eval()
    experts.config._experts_implementation = NAME
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids, weights = torch.tensor([[0, 1], [2, 3], [0, 2], [1, 3]]), torch.full((4, 2), 0.5, dtype=dtype)
    with torch.no_grad():
        found = experts(hidden, ids, weights)
        with pytest.raises(RuntimeError, match="16 bytes"):  # control
            grouped_mm_experts_forward(experts, hidden, ids, weights)
        experts.config._experts_implementation = "eager"
        torch.testing.assert_close(found, experts(hidden, ids, weights), atol=1e-2 if width == 20 else 1e-6, rtol=0)


def test_a_compiled_model_runs_the_stock_experts(monkeypatch):
    model = tiny_model()
    model.set_experts_implementation("grouped_mm")
    expected = model(input_ids=IDS).logits
    model.set_experts_implementation(NAME)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(model(input_ids=IDS).logits, expected)


@pytest.mark.parametrize(("family", "kind"), [("olmoe", SwiGlu), ("gpt_oss", Gate), ("nemotron_h", Gate)])
def test_the_derivative_by_hand_is_for_the_usual_activation_only(family, kind):
    experts = moe_layers(tiny_model(family))[0].experts
    assert type(gate_of(experts)) is kind
    experts.act_fn = nn.GELU()
    assert type(gate_of(experts)) is Gate


def test_own_model_types_and_saved_models_know_it(tmp_path):
    model = tiny_model()
    model.set_experts_implementation(NAME)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    again = type(model).from_pretrained(tmp_path, experts_implementation=NAME)
    assert again.config._experts_implementation == NAME
    assert_same(outcome(again), outcome(model))
