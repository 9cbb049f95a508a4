"""SparseMixer by hand, against a second implementation in plain Python, and against the stock one."""

import math

import pytest
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig, check_condensers, route
from expert_condenser.functional.scoring import Scoring
from expert_condenser.functional.sparse_mixer import largest_one_by_one, sparse_mixer_weights

NONE = torch.zeros(0, dtype=torch.int64)
LOGITS = torch.tensor([[2.0, 1.0, 1.75, -3.0, 1.25]], dtype=torch.float64)
JITTER = 0.2


def scoring(jitter=JITTER):
    return Scoring(function="sparse_mixer", jitter=jitter, weights_in_float32=True, takes_twice=False)


def draw(tokens=64, experts=8):
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def plain_weights(z, chosen, jitter):
    """One token: experts in the order of their logits, each a softmax over what is left and near."""
    left, found = set(range(len(z))), {}
    for i in sorted(chosen, key=lambda i: -z[i]):
        largest = max(z[j] for j in left)
        near = {j for j in left if (largest - z[j]) / max(abs(z[j]), largest) <= 2 * jitter} | {i}
        found[i] = math.exp(z[i]) / sum(math.exp(z[j]) for j in near)
        left.remove(i)
    return [found[i] for i in chosen]


def test_weights_by_hand():
    """Near 2 within 40 % are 2, 1.75 and 1.25; without the first, near 1.75 are 1.75 and 1.25."""
    e = {z: math.exp(z) for z in (2.0, 1.75, 1.25, 1.0)}
    found = sparse_mixer_weights(LOGITS, torch.tensor([[0, 2]]), JITTER)[0].tolist()
    assert found == pytest.approx([e[2.0] / (e[2.0] + e[1.75] + e[1.25]), e[1.75] / (e[1.75] + e[1.25])], rel=1e-14)
    swapped = sparse_mixer_weights(LOGITS, torch.tensor([[2, 0]]), JITTER)[0].tolist()
    assert swapped == found[::-1], "a weight is of an expert, not of a slot"
    narrow = sparse_mixer_weights(LOGITS, torch.tensor([[0, 2]]), 0.01)[0].tolist()
    assert narrow == [1.0, 1.0], "control: alone within 2 %"


def test_an_expert_that_is_far_stays_in_its_own_softmax():
    """A condenser: 1 is not within 40 % of 2, nor of 1.75, and gets a weight, not zero."""
    e = {z: math.exp(z) for z in (2.0, 1.75, 1.25, 1.0, -3.0)}
    found = sparse_mixer_weights(LOGITS, torch.tensor([[3, 0]]), JITTER)[0].tolist()
    first = e[2.0] / (e[2.0] + e[1.75] + e[1.25])
    assert found == pytest.approx([e[-3.0] / (e[1.75] + e[1.25] + e[-3.0]), first], rel=1e-14)
    assert found[0] > 0


@pytest.mark.parametrize("jitter", [0.0, 0.01, 0.2, 1.0])
def test_weights_of_any_choice_against_plain_python(jitter):
    logits, generator = draw(), torch.Generator().manual_seed(4)
    chosen = torch.stack([torch.randperm(8, generator=generator)[:3] for _ in logits])
    found = sparse_mixer_weights(logits, chosen, jitter)
    expected = [plain_weights(z, ids, jitter) for z, ids in zip(logits.tolist(), chosen.tolist(), strict=True)]
    assert found.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]
    others = [
        plain_weights(z, ids, 0.0 if jitter else 0.3) for z, ids in zip(logits.tolist(), chosen.tolist(), strict=True)
    ]
    assert found.tolist() != [pytest.approx(row, rel=1e-12) for row in others]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_without_bias_it_is_the_family_s_own_with_its_gradient_bit_for_bit(dtype):
    """Rounded logits, so that many are equal."""
    ours, stock = (draw(257).mul(4).round().div(4).to(dtype).requires_grad_() for _ in range(2))
    assert (ours.detach().sort(dim=-1).values.diff() == 0).any(dim=-1).sum() > 100
    weights, indices = route(ours, torch.zeros(8), NONE, top_k=2, scoring=scoring())
    expected = sparsemixer(stock, JITTER, training=False)
    assert torch.equal(weights, expected[0])
    assert torch.equal(indices, expected[1])
    weights.float().pow(2).sum().backward()
    expected[0].float().pow(2).sum().backward()
    assert torch.equal(ours.grad, stock.grad)
    assert not torch.equal(weights, sparsemixer(stock, 0.01, training=False)[0])


def test_one_by_one_takes_the_lower_index_of_equals_and_infinities():
    ranks = torch.tensor([[1.0, 3.0, 3.0, 2.0], [torch.inf, 0.0, torch.inf, 5.0]])
    assert largest_one_by_one(ranks, 3).tolist() == [[1, 2, 3], [0, 2, 3]]
    assert largest_one_by_one(ranks.flip(-1), 3).tolist() == [[1, 2, 0], [1, 3, 0]]


def test_the_bias_chooses_and_does_not_weigh_and_a_condenser_is_always_there():
    bias = torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0])
    weights, indices = route(LOGITS, bias, NONE, top_k=2, scoring=scoring())
    assert indices.tolist() == [[1, 0]]
    assert weights[0].tolist() == pytest.approx(plain_weights(LOGITS[0].tolist(), [1, 0], JITTER), rel=1e-14)
    weights, indices = route(LOGITS, torch.zeros(5), torch.tensor([3]), top_k=2, scoring=scoring())
    assert indices.tolist() == [[3, 0]]
    assert weights[0].tolist() == pytest.approx(plain_weights(LOGITS[0].tolist(), [3, 0], JITTER), rel=1e-14)
    config = RoutingConfig(budget="additive")
    weights, indices = route(LOGITS, torch.zeros(5), torch.tensor([0]), top_k=2, scoring=scoring(), config=config)
    assert indices.tolist() == [[2, 4, 0]], "the condenser takes none of the two slots"


def test_no_expert_is_counted_twice():
    with pytest.raises(RoutingError, match="takes every expert once"):
        check_condensers(1, 8, 2, RoutingConfig(preset="reference"), scoring())
    check_condensers(1, 8, 2, RoutingConfig(preset="reference"))
    check_condensers(1, 8, 2, RoutingConfig(preset="reference", duplicates=False), scoring())
