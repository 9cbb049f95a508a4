"""The effect of a removal on the routing, by hand."""

import pytest
import torch
from torch import nn

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.experts_calls import ExpertsCall
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.rule import Rule
from expert_condenser.surgery.cut import cut_experts
from expert_condenser.surgery.effect import effects_of, is_rescaled, is_shifted
from expert_condenser.testing import tiny_batch, tiny_model


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


def test_who_is_shifted():
    """A bias beside scores that rise when others are gone; logits and sigmoids stay."""
    for family, policy, shifted in (
        ("mixtral", {"bias_space": "score"}, True),
        ("mixtral", {"bias_space": "logit"}, False),
        ("olmoe", {"bias_space": "score"}, True),
        ("minimax_m2", {}, False),
    ):
        model = attach(tiny_model(family), RoutingConfig(**policy))
        assert {is_shifted(layer) for layer in moe_layers(model)} == {shifted}, family
    assert all(map(is_shifted, moe_layers(tiny_model("ernie4_5_moe")))), "a correction bias of its own, on a softmax"
    assert not any(map(is_shifted, moe_layers(tiny_model("mixtral"))))


@pytest.mark.parametrize(
    ("family", "policy", "moves"),
    [("mixtral", "score", True), ("mixtral", "logit", False), ("qwen3_moe", "score", True)],
)
def test_a_shift_is_one(family, policy, moves):
    """The cut model beside the one in which nobody may choose the removed."""
    model = attach(tiny_model(family), RoutingConfig(bias_space=policy)).eval()
    for index, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.linspace(-0.1, 0.1, layer.num_experts).roll(index))
    cut = cut_experts(model, {index: [0, 4] for index in range(len(moe_layers(model)))}).eval()
    for layer in moe_layers(model):
        layer.router.selection_bias[[0, 4]] = -3e4
    with torch.no_grad():
        ids = tiny_batch(3, 20)
        whole, left = (each(input_ids=ids, use_cache=False).logits for each in (model, cut))
    assert ((whole - left).abs().max() / whole.abs().max() > 1e-3) == moves


def test_who_is_rescaled():
    assert is_rescaled(Scoring())
    others = [Scoring(function=name) for name in ("sigmoid", "topk_softmax", "topk_sigmoid", "sparse_mixer")]
    assert not any(map(is_rescaled, [Scoring(normalize=True), *others]))
