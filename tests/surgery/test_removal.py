"""Who goes: the lowest scores, as many of every layer and group, condensers never."""

import pytest
import torch

from expert_condenser import moe_layers
from expert_condenser.errors import SurgeryError
from expert_condenser.surgery.removal import check_removed, lowest_scored, most_removable
from expert_condenser.testing import tiny_model


@pytest.fixture(scope="module")
def layers():
    return moe_layers(tiny_model("olmoe"))


@pytest.fixture(scope="module")
def grouped():
    """Two layers, four groups of four experts, three kept, K = 3."""
    return moe_layers(tiny_model("deepseek_v2_grouped", n_routed_experts=16))


SCORES = torch.tensor([[5, 1, 7, 2, 2, 0, 9, 3]] * 3, dtype=torch.float64)


def test_the_lowest_go_and_ties_to_the_lower_index(layers):
    assert lowest_scored(SCORES, 3, layers, {}) == {0: [1, 3, 5], 1: [1, 3, 5], 2: [1, 3, 5]}


def test_condensers_stay_whatever_their_score(layers):
    assert lowest_scored(SCORES, 2, layers, {0: [5, 1], 1: [], 2: [3]}) == {0: [3, 4], 1: [1, 5], 2: [1, 5]}


def test_every_group_loses_as_many(grouped):
    scores = torch.arange(16, dtype=torch.float64).repeat(2, 1)
    scores[1] = -scores[1]
    assert lowest_scored(scores, 4, grouped, {}) == {0: [0, 4, 8, 12], 1: [3, 7, 11, 15]}
    with pytest.raises(SurgeryError, match="a multiple of its 4 groups"):
        lowest_scored(scores, 6, grouped, {})


def test_how_many_can_go(layers, grouped):
    assert most_removable(layers[0], []) == 5, "K = 3 are left"
    assert most_removable(layers[0], [0, 1, 2, 3]) == 4, "four condensers are left"
    assert most_removable(grouped[0], []) == 12, "one in each group: three groups of one are K"
    assert most_removable(grouped[0], [0, 1]) == 8, "two condensers in one group, so two in each"
    two = moe_layers(tiny_model("glm4_moe", n_routed_experts=16))
    assert most_removable(two[0], []) == 8, "a group is ranked by its two best"


def test_scores_of_another_model_are_refused(layers):
    with pytest.raises(SurgeryError, match="3 layers of 8 here; got scores of 3 x 6"):
        lowest_scored(SCORES[:, :6], 2, layers, {})


@pytest.mark.parametrize("count", [0, 6])
def test_too_many_or_none_are_refused(layers, count):
    with pytest.raises(SurgeryError, match=f"1 to 5 of them can be removed; got {count}"):
        lowest_scored(SCORES, count, layers, {})


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({0: [1], 1: [1], 2: [1], 3: [1]}, "MoE layers 0 to 2; got layer 3"),
        ({0: [1], 1: [1, 2], 2: [1]}, r"the same number of experts.*got \[1, 2, 1\]"),
        ({0: [1], 1: [1]}, r"got \[1, 1, 0\]"),
        ({0: [8], 1: [1], 2: [1]}, "experts 0 to 7"),
        ({0: [1, 1], 1: [1, 2], 2: [1, 2]}, "name each once"),
        ({0: [0, 1], 1: [4, 2], 2: [1, 2]}, r"condensers are never removed, and \[4\] are"),
        ({at: [0, 1, 2, 3, 5, 6] for at in range(3)}, "1 to 5 of them can be removed; got 6"),
    ],
)
def test_what_cannot_be_removed_is_refused(layers, removed, message):
    with pytest.raises(SurgeryError, match=message):
        check_removed(layers, removed, {1: [4]})
    check_removed(layers, {0: [1], 1: [1], 2: [7]}, {1: [4]})


def test_groups_that_would_differ_are_refused(grouped):
    with pytest.raises(SurgeryError, match=r"every group of 4 experts loses the same number; got \[2, 1, 1, 0\]"):
        check_removed(grouped, {0: [0, 1, 4, 8], 1: [0, 4, 8, 12]}, {})
    check_removed(grouped, {0: [1, 4, 8, 13], 1: [0, 4, 8, 12]}, {})
