"""Experts over ranks, in numbers that can be checked by hand."""

import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.placement import (
    bytes_per_token,
    expert_loads,
    expert_ranks,
    imbalance,
    rank_loads,
    resampled,
)

NONE = torch.zeros(0, dtype=torch.int64)


def shares(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_as_many_experts_have_the_same_shares():
    usage = torch.tensor([[30, 10, 60], [2, 2, 4]])
    assert torch.allclose(resampled(usage, 3), shares([0.1, 0.3, 0.6], [0.25, 0.25, 0.5]))


def test_twice_as_many_lie_on_the_same_curve():
    """Middles 1/8, 3/8, 5/8, 7/8 between those of two experts at 1/4 and 3/4, and constant beyond."""
    found = resampled(torch.tensor([1.0, 3.0]), 4)
    assert torch.allclose(found, shares(0.25, 0.375, 0.625, 0.75) / 2)
    assert found.sum() == 1
    assert not torch.allclose(found, shares(0.125, 0.125, 0.375, 0.375)), "control: each expert twice"


def test_an_even_usage_stays_even_and_the_most_uneven_keeps_its_top():
    assert torch.allclose(resampled(torch.ones(5), 13), torch.full((13,), 1 / 13, dtype=torch.float64))
    one = resampled(torch.tensor([0, 0, 0, 0, 1]), 20)
    assert one.max() == one[-1] > 5 / 20 * 0.6
    assert (one >= 0).all()


def test_consecutive_experts_share_a_rank():
    assert expert_ranks(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert rank_loads(shares(1, 2, 3, 4, 5, 6, 7), 3).tolist() == [6, 9, 13]
    assert imbalance(shares([6, 9, 12], [1, 1, 1])).tolist() == [12 / 9, 1]
    with pytest.raises(RoutingError, match="got 8 ranks and 7 experts"):
        expert_ranks(7, 8)


def test_without_condensers_the_slots_follow_the_shares():
    loads = expert_loads(shares(0.1, 0.2, 0.3, 0.4), 2, NONE, ranks=2, replicated=False)
    assert torch.allclose(loads, shares(0.4, 0.8, 1.2, 1.6))
    assert torch.allclose(rank_loads(loads, 2).mean(), shares(2.0)), "K rows per token that a rank brings"


def test_a_condenser_on_its_owner_overloads_it():
    """Two ranks, two slots, one condenser, even routing: 2.5 to 1, as 730 rows against 290 were counted."""
    even = torch.full((8,), 1 / 8, dtype=torch.float64)
    owned = rank_loads(expert_loads(even, 2, torch.tensor([0]), ranks=2, replicated=False), 2)
    assert torch.allclose(owned, shares(2 + 2 * 3 / 7, 2 * 4 / 7))
    copied = rank_loads(expert_loads(even, 2, torch.tensor([0]), ranks=2, replicated=True), 2)
    assert torch.allclose(copied, shares(2 * 3 / 7, 2 * 4 / 7))
    assert owned[0] / owned[1] == pytest.approx(2.5)
    assert owned.sum() == pytest.approx(4)
    assert copied.sum() == pytest.approx(2), "a copy's rows are its rank's own"


def test_what_a_condenser_was_chosen_is_shared_out_among_the_others():
    found = expert_loads(shares(0.1, 0.2, 0.3, 0.4), 3, torch.tensor([3]), ranks=1, replicated=False)
    assert torch.allclose(found, shares(2 / 6, 4 / 6, 6 / 6, 1))


def test_bytes_of_a_token():
    assert bytes_per_token(6, 4, hidden_size=10, itemsize=2) == 2 * 6 * 0.75 * 20
    assert bytes_per_token(6, 1, hidden_size=10, itemsize=2) == 0
    ratio = bytes_per_token(5, 4, hidden_size=10, itemsize=2) / bytes_per_token(6, 4, hidden_size=10, itemsize=2)
    assert ratio == 5 / 6, "(K - R) / K"
