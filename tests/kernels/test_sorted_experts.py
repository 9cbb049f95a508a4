"""The experts as one function: exact against a loop over tokens in plain autograd, in every layout."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from expert_condenser.kernels import sorted_experts as module
from expert_condenser.kernels.gating import Gate, SwiGlu
from expert_condenser.kernels.sorted_experts import (
    Experts,
    Fused,
    SortedExperts,
    compute_dtype,
    inner_products,
    sort_pairs,
    sorted_experts,
)

T, K, E, D, WIDTH = 13, 3, 7, 10, 6


def clamped(projected):
    """Interleaved, clamped, with a residual: gpt-oss."""
    gate, up = projected[..., ::2].clamp(max=0.4), projected[..., 1::2].clamp(-0.4, 0.4)
    return (up + 1) * gate * torch.sigmoid(1.7 * gate)


def swiglu(projected):
    gate, up = projected.chunk(2, dim=-1)
    return F.silu(gate) * up


def squared_relu(projected):
    return F.relu(projected).square()


LAYOUTS = {
    "swiglu": (swiglu, SwiGlu(), 2 * WIDTH, False, False),
    "clamped, transposed, biases": (clamped, Gate(clamped), 2 * WIDTH, True, True),
    "not gated": (squared_relu, Gate(squared_relu), WIDTH, False, False),
    "not gated, biases": (squared_relu, Gate(squared_relu), WIDTH, False, True),
    "swiglu, transposed": (swiglu, SwiGlu(), 2 * WIDTH, True, False),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def inputs(layout="swiglu", dtype=torch.float64, indices=None):
    """Function, gate, leaves `[hidden, weights, up, down, biases]`, choices, transposed. Expert 5 has no token."""
    function, gate, width, transposed, biased = LAYOUTS[layout]
    torch.manual_seed(3)
    up, down = torch.randn(E, width, D, dtype=dtype), torch.randn(E, D, WIDTH, dtype=dtype)
    if transposed:
        up, down = up.mT.contiguous(), down.mT.contiguous()
    biases = [torch.randn(E, width, dtype=dtype), torch.randn(E, D, dtype=dtype)] if biased else [None, None]
    if indices is None:
        indices = torch.stack([torch.randperm(E - 1)[:K] for _ in range(T)])
        indices[indices == 5] = 6
    leaves = [torch.randn(len(indices), D, dtype=dtype), torch.rand(indices.shape, dtype=dtype), up, down, *biases]
    leaves = [None if leaf is None else leaf.requires_grad_() for leaf in leaves]
    return function, gate, leaves, indices, transposed


def by_token(function, leaves, indices, transposed):
    hidden, weights, up, down, up_bias, down_bias = leaves
    rows = []
    for x, gates, ids in zip(hidden, weights, indices, strict=True):
        row = torch.zeros_like(x)
        for gate, i in zip(gates, ids, strict=True):
            first, second = (up[i].T, down[i].T) if transposed else (up[i], down[i])
            projected = first @ x if up_bias is None else first @ x + up_bias[i]
            output = second @ function(projected)
            row = row + gate * (output if down_bias is None else output + down_bias[i])
        rows.append(row)
    return torch.stack(rows)


def ours(gate, leaves, indices, transposed, **options):
    hidden, weights, *fused = leaves
    return sorted_experts(hidden, weights, indices, Experts(Fused(*fused), gate, transposed, **options))


def gradients(output, leaves, seed=5):
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    return torch.autograd.grad(output, wanted, upstream)


def relative(first, second):
    return ((first.double() - second.double()).abs().max() / second.double().abs().max()).item()


@every_layout
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_output_and_every_gradient_are_those_of_the_definition(layout, dtype, tolerance):
    function, gate, leaves, indices, transposed = inputs(layout, dtype)
    expected, found = by_token(function, leaves, indices, transposed), ours(gate, leaves, indices, transposed)
    assert relative(found, expected) < tolerance
    for a, b in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert relative(a, b) < tolerance


def test_control_another_choice_is_another_output():
    function, gate, leaves, indices, transposed = inputs()
    found = ours(gate, leaves, indices.roll(1, 0), transposed)
    assert relative(found, by_token(function, leaves, indices, transposed)) > 1e-2


@every_layout
def test_an_expert_without_tokens_has_a_gradient_of_exactly_zero(layout):
    _, gate, leaves, indices, transposed = inputs(layout)
    assert 5 not in indices
    for gradient in gradients(ours(gate, leaves, indices, transposed), leaves)[2:]:
        assert gradient[5].count_nonzero() == 0
        assert gradient[indices[0, 0]].count_nonzero() > 0


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([[2, 4, 1]] * 9),  # three condensers: every token, nothing to gather
        torch.tensor([[2, 4, 2], [1, 2, 0], [4, 1, 0]]),  # an expert twice, which has 3 pairs of 3 tokens
        torch.tensor([[3]]),
        torch.arange(7)[None],
    ],
    ids=["every token", "duplicates", "one", "all experts"],
)
def test_unusual_choices(indices):
    function, gate, leaves, indices, transposed = inputs(indices=indices)
    expected, found = by_token(function, leaves, indices, transposed), ours(gate, leaves, indices, transposed)
    assert relative(found, expected) < 1e-13
    for a, b in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert relative(a, b) < 1e-13


def test_no_tokens_give_no_output_and_zero_gradients():
    _, gate, leaves, indices, transposed = inputs(indices=torch.zeros(0, K, dtype=torch.int64))
    found = ours(gate, leaves, indices, transposed)
    assert found.shape == (0, D)
    assert all(gradient.count_nonzero() == 0 for gradient in gradients(found, leaves))


@pytest.mark.parametrize("frozen", [(2, 3), (0,), (1,), (0, 1, 2), (3,)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    _, gate, leaves, indices, transposed = inputs()
    whole = dict(zip((0, 1, 2, 3), gradients(ours(gate, leaves, indices, transposed), leaves), strict=True))
    for index in frozen:
        leaves[index].requires_grad_(False)
    found = ours(gate, leaves, indices, transposed)
    rest = [index for index in whole if index not in frozen]
    for index, gradient in zip(rest, gradients(found, leaves), strict=True):
        assert torch.equal(gradient, whole[index])


@every_layout
def test_slices_get_the_gradient_of_their_experts(layout):
    _, gate, leaves, indices, transposed = inputs(layout)
    whole = gradients(ours(gate, leaves, indices, transposed), leaves)
    ids = (1, 4, 5)
    fused = [None if leaf is None else leaf.detach() for leaf in leaves[2:]]
    slices = [None if leaf is None else leaf[list(ids)].clone().requires_grad_() for leaf in fused]
    found = ours(gate, [*leaves[:2], *fused], indices, transposed, slices=Fused(*slices), slice_ids=ids)
    for a, b in zip(gradients(found, [*leaves[:2], *slices]), whole, strict=True):
        assert torch.equal(a, b if len(b) != E else b[list(ids)])


@pytest.mark.parametrize("native", [True, False])
def test_half_precision(native, monkeypatch):
    monkeypatch.setattr(module, "has_instructions", lambda dtype: native)
    function, gate, leaves, indices, transposed = inputs()
    halves = [None if leaf is None else leaf.detach().bfloat16().requires_grad_() for leaf in leaves]
    exact = [None if leaf is None else leaf.detach().double().requires_grad_() for leaf in halves]
    assert compute_dtype(halves[2]) == (torch.bfloat16 if native else torch.float32)
    found, expected = ours(gate, halves, indices, transposed), by_token(function, exact, indices, transposed)
    assert found.dtype == torch.bfloat16
    assert relative(found, expected) < (2e-2 if native else 8e-3)
    for a, b in zip(gradients(found, halves), gradients(expected, exact), strict=True):
        assert a.dtype == torch.bfloat16
        assert relative(a, b) < (3e-2 if native else 1e-2)


def test_routing_weights_and_hidden_states_may_have_other_dtypes():
    function, gate, leaves, indices, transposed = inputs(dtype=torch.float32)
    mixed = [leaves[0].detach().bfloat16().requires_grad_(), leaves[1].detach().double().requires_grad_(), *leaves[2:]]
    exact = [mixed[0].detach().float().requires_grad_(), *leaves[1:]]
    found, expected = ours(gate, mixed, indices, transposed), by_token(function, exact, indices, transposed)
    assert found.dtype == torch.bfloat16
    assert relative(found, expected) < 1e-2
    assert [g.dtype for g in gradients(found, mixed)] == [torch.bfloat16, torch.float64, torch.float32, torch.float32]


def test_the_same_call_gives_the_same_bits():
    _, gate, leaves, indices, transposed = inputs(dtype=torch.float32)
    first, second = (ours(gate, leaves, indices, transposed) for _ in range(2))
    assert torch.equal(first, second)
    for a, b in zip(gradients(first, leaves), gradients(second, leaves), strict=True):
        assert torch.equal(a, b)


def test_of_the_pairs_only_the_projections_are_kept():
    _, gate, leaves, indices, transposed = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(gate, leaves, indices, transposed)
    own = {leaf.data_ptr() for leaf in leaves if leaf is not None}
    assert [tuple(t.shape) for t in kept if t.data_ptr() not in {*own, indices.data_ptr()}] == [(T * K, 2 * WIDTH)]


@every_layout
def test_inner_products_are_those_with_each_experts_output(layout):
    function, gate, leaves, _, transposed = inputs(layout)
    hidden, _, *fused = leaves
    gradient = torch.randn(T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = inner_products(hidden, gradient, Experts(Fused(*fused), gate, transposed))
    one = torch.ones(T, 1, dtype=torch.float64)
    for expert in range(E):
        output = by_token(function, [hidden, one, *fused], torch.full((T, 1), expert), transposed)
        assert torch.allclose(found[:, expert], (output * gradient).sum(-1), rtol=1e-12)
    assert not found.requires_grad


@pytest.mark.parametrize("function", [lambda x: x, lambda x: x[..., :WIDTH] + x[..., WIDTH:]], ids=["identity", "sum"])
def test_a_gate_that_returns_its_input_or_its_gradient_is_not_written_over(function):
    _, _, leaves, indices, transposed = inputs("swiglu" if function(torch.ones(1, 12)).shape[1] == 6 else "not gated")
    expected = by_token(function, leaves, indices, transposed)
    found = ours(Gate(function), leaves, indices, transposed)
    first = torch.autograd.grad(found.square().sum(), [leaves[1], leaves[2]], retain_graph=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first, torch.autograd.grad(found.square().sum(), [leaves[1], leaves[2]]), strict=True)
    )
    for a, b in zip(first, torch.autograd.grad(expected.square().sum(), [leaves[1], leaves[2]]), strict=True):
        assert relative(a, b) < 1e-13


def test_a_recomputation_that_chooses_otherwise_is_consistent_with_itself():
    """Under checkpointing, what the backward pass reads is of the recomputation, the choice included."""
    function, gate, leaves, first, transposed = inputs()
    choices = [first, first.roll(1, 0)]
    expected = by_token(function, leaves, choices[1], transposed)

    def run(hidden):
        return ours(gate, [hidden, *leaves[1:]], choices.pop(0), transposed)

    found = checkpoint(run, leaves[0], use_reentrant=False)
    for a, b in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert relative(a, b) < 1e-13


def test_the_backward_pass_does_not_heed_autocast():
    _, gate, leaves, indices, transposed = inputs(dtype=torch.float32)
    expected = gradients(ours(gate, leaves, indices, transposed), leaves)
    found = ours(gate, leaves, indices, transposed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = gradients(found, leaves)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@every_layout
def test_recomputation_keeps_nothing_of_the_pairs_and_gives_the_same_bits(layout):
    _, gate, leaves, indices, transposed = inputs(layout)
    expected, kept = ours(gate, leaves, indices, transposed), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = ours(gate, leaves, indices, transposed, recompute=True)
    own = {leaf.data_ptr() for leaf in leaves if leaf is not None}
    assert {t.data_ptr() for t in kept} <= own | {indices.data_ptr()}
    assert torch.equal(found, expected)
    for a, b in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert torch.equal(a, b)


def test_a_second_derivative_is_refused():
    _, gate, leaves, indices, transposed = inputs()
    output = ours(gate, leaves, indices, transposed)
    (first,) = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_weights_changed_between_the_passes_are_noticed():
    _, gate, leaves, indices, transposed = inputs()
    output = ours(gate, leaves, indices, transposed)
    leaves[2].data.mul_(1.0)
    with torch.no_grad():
        leaves[2].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_pairs_are_sorted_by_expert_and_token():
    indices = torch.tensor([[2, 0], [0, 1], [2, 1]])
    pairs = sort_pairs(indices, 4)
    assert pairs.counts == [2, 2, 2, 0]
    assert pairs.tokens.tolist() == [0, 1, 1, 2, 0, 2]
    assert indices.flatten()[pairs.order].tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.order[pairs.place.flatten()].tolist() == list(range(6))
    assert pairs.used() == [0, 1, 2]


def test_every_input_passes_torchs_own_gradient_check():
    _, gate, leaves, indices, transposed = inputs("swiglu")
    experts = Experts(Fused(*leaves[2:]), gate, transposed)

    def function(*tensors):
        return SortedExperts.apply(*tensors, None, None, indices, experts)

    assert torch.autograd.gradcheck(function, leaves[:4])
