"""Document pools: who is in, what is chosen within, and that the model without them is the stock one."""

import random

import pytest
import torch
from torch import tensor

from expert_condenser.testbed.pools import (
    Documents,
    PooledRouting,
    balance_loss,
    choose_in_pools,
    excess,
    number_documents,
    outside_loss,
    pools,
)
from expert_condenser.testing.models import tiny_model

# Four experts, two documents. The first has tokens that like 0 and 1, and all of them a little of 3.
PROBABILITIES = tensor(
    [
        [0.60, 0.05, 0.05, 0.30],
        [0.05, 0.60, 0.05, 0.30],
        [0.35, 0.10, 0.25, 0.30],
        [0.10, 0.20, 0.60, 0.10],
        [0.12, 0.08, 0.70, 0.10],
    ]
)
DOCUMENTS = Documents(tensor([0, 0, 0, 1, 1]), tensor([2, 3]))


def test_a_pool_is_the_experts_with_the_largest_sum_over_the_document():
    # sums: 1.00, 0.75, 0.35, 0.90 and 0.22, 0.28, 1.30, 0.20
    assert pools(PROBABILITIES, DOCUMENTS).tolist() == [[True, False, False, True], [True, True, True, False]]


def test_the_excess_leaves_out_what_all_documents_like():
    affinity = excess(PROBABILITIES)
    assert torch.allclose(affinity.sum(0), torch.zeros(4), atol=1e-6)
    # the first document: sums less three times the means .244, .206, .33, .22, so .268, .132, -.64, .24
    assert pools(affinity, Documents(DOCUMENTS.of_token, tensor([3, 1]))).tolist() == [
        [True, True, False, True],
        [False, False, True, False],
    ]
    shared = PROBABILITIES.clone()
    shared[:, 3] += 5  # every token likes expert 3
    assert pools(shared, DOCUMENTS)[:, 3].all()
    assert torch.equal(pools(excess(shared), DOCUMENTS), pools(affinity, DOCUMENTS))


POOL = pools(PROBABILITIES, DOCUMENTS)[DOCUMENTS.of_token]


def test_every_token_chooses_within_its_document_s_pool():
    assert choose_in_pools(PROBABILITIES.log(), POOL, top_k=2).tolist() == [[0, 3], [3, 0], [0, 3], [2, 1], [2, 0]]
    everyone = torch.ones_like(POOL)
    assert choose_in_pools(PROBABILITIES.log(), everyone, top_k=2)[1].tolist() == [1, 3], "without the pool"


def test_the_balancing_loss_is_that_of_the_choice_and_of_all_probabilities():
    logits = PROBABILITIES.log()
    chosen = choose_in_pools(logits, POOL, top_k=2)
    share = tensor([4 / 5, 1 / 5, 2 / 5, 3 / 5])  # of the five tokens, in the choice above
    assert balance_loss(logits, chosen) == pytest.approx(4 * (share * PROBABILITIES.mean(0)).sum().item())
    even = tensor([[0, 1], [2, 3]])
    assert balance_loss(torch.zeros(2, 4), even) == pytest.approx(2), "K where all experts are used alike"


def test_the_outside_loss_is_the_nll_of_the_pool():
    inside = tensor([0.9, 0.35, 0.65, 0.9, 0.9])
    assert outside_loss(PROBABILITIES.log(), POOL) == pytest.approx(-inside.log().mean().item())
    assert outside_loss(PROBABILITIES.log(), torch.ones_like(POOL)) == pytest.approx(0, abs=1e-6)


def test_documents_of_a_batch_are_numbered_through_its_rows():
    found = number_documents([[0, 0, 1], [0, 1, 2]], (3, 5), random.Random(0))
    assert found.of_token.tolist() == [0, 0, 1, 2, 3, 4]
    assert len(found.pool_sizes) == 5
    sizes = number_documents([range(200)], (3, 5), random.Random(0)).pool_sizes
    assert set(sizes.tolist()) == {3, 4, 5}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_model_routes_in_pools_while_they_are_entered(normalize):
    model = tiny_model("olmoe", norm_topk_prob=normalize).eval()
    ids = torch.randint(10, 90, (2, 6), generator=torch.Generator().manual_seed(0))
    experts, top_k = model.config.num_experts, model.config.num_experts_per_tok
    stock = model(input_ids=ids).logits
    one = number_documents([[0] * 6, [0] * 6], (experts, experts), random.Random(0))
    with PooledRouting(model) as pooled:
        pooled.start(one)
        assert torch.equal(model(input_ids=ids).logits, stock), "every expert is in the pool"
        assert len(pooled.balance) == len(pooled.layers)
        pooled.start(one._replace(pool_sizes=tensor([top_k, top_k])))
        seen = []
        hook = pooled.layers[0].router.register_forward_hook(lambda router, args, output: seen.append(output))
        assert not torch.equal(model(input_ids=ids).logits, stock)
        hook.remove()
    _, weights, indices = seen[0]
    for row in (indices[:6], indices[6:]):
        assert len(row.unique()) == top_k, "a pool of K experts is all that its document gets"
    assert torch.allclose(weights.sum(1), torch.ones(12)) is normalize
    assert torch.equal(model(input_ids=ids).logits, stock)
