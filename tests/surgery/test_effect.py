"""The effect of a removal on the routing, by hand."""

import pytest
import torch
from torch import nn

from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.experts_calls import ExpertsCall
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.rule import Rule
from expert_condenser.surgery.effect import effects_of, is_rescaled


def call_of(probabilities):
    """Two tokens, K = 2, whose softmax is given, and whose router is the identity on its logarithm."""
    hidden = torch.tensor(probabilities).log()
    weights, indices = torch.softmax(hidden, -1).topk(2)
    return ExpertsCall((hidden,), hidden, indices, weights, hidden)


def layer_of(normalize):
    rule = Rule("by hand", lambda router, hidden: hidden, lambda router: Scoring(normalize=normalize))
    return MoELayer("gate", None, nn.Identity(), 4, 2, rule, "mlp")


@pytest.mark.parametrize("normalize", [False, True])
def test_by_hand(normalize):
    """Without expert 3: its share is 0.2 and 0.5, so that weights rise 1.25 and 2 times."""
    call = call_of([[0.4, 0.3, 0.1, 0.2], [0.2, 0.2, 0.1, 0.5]])
    (found,) = effects_of([layer_of(normalize)], [call], {0: [3]})
    assert found.choices == 0.25, "one of the four choices"
    assert found.gate_mass == pytest.approx(0.5 / 1.4)
    assert found.rescaled is not normalize
    wanted = (1.0, 1.0) if normalize else (1.25, 2.0)
    assert (found.factor_median, found.factor_largest) == pytest.approx(wanted), "torch's median is the lower one"


def test_who_is_rescaled():
    assert is_rescaled(Scoring())
    others = [Scoring(function=name) for name in ("sigmoid", "topk_softmax", "topk_sigmoid", "sparse_mixer")]
    assert not any(map(is_rescaled, [Scoring(normalize=True), *others]))
