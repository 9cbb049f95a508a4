"""The sum of a layer's weights, kept by `condenser_mass` and `condenser_gate_floor`: by hand, in float64."""

import pytest
import torch

from expert_condenser import attach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError
from expert_condenser.functional.gate_mass import keep_mass, raise_to_floor
from expert_condenser.functional.routing import RoutingConfig, own_mass, route
from expert_condenser.functional.scoring import Scoring
from expert_condenser.testing import tiny_batch, tiny_model

# Two tokens, five experts, scores n / 16; K = 3, so S_K = 14/16 and 14/16. Condenser 4 takes the place of the third.
LOGITS = torch.tensor([[8.0, 4, 2, 1, 1], [1, 2, 8, 4, 1]]).log()
ZERO, FOUR, NOBODY = torch.zeros(5), torch.tensor([4]), torch.zeros(0, dtype=torch.int64)
KEEP, FLOOR = RoutingConfig(condenser_mass="keep"), RoutingConfig(condenser_gate_floor=0.5)
FAMILIES = {"olmoe": False, "mixtral": True, "qwen3_moe": True}
"""Whether the family divides the weights by their sum."""


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_the_mass_is_that_of_the_family_s_own_choice():
    assert own_mass(LOGITS, 3).tolist() == [[pytest.approx(14 / 16)], [pytest.approx(14 / 16)]]
    assert own_mass(LOGITS, 3, Scoring(normalize=True, scale=2.5)).tolist() == [[pytest.approx(2.5)]] * 2
    corrected = own_mass(LOGITS, 3, Scoring(function="sigmoid"), torch.tensor([-9.0, 0, 0, 0, 0]))
    scores = [[8 / 9, 4 / 5, 2 / 3, 1 / 2, 1 / 2], [1 / 2, 2 / 3, 8 / 9, 4 / 5, 1 / 2]]
    assert corrected[0].item() == pytest.approx(sum(scores[0][1:4])), "the family's own correction chooses"
    assert corrected[1].item() == pytest.approx(sum(scores[1][1:4]))


def test_keep_by_hand():
    weights, mass = double([0.5, 0.25, 0.0625], [0.0, 0.0, 0.0]), double([0.875], [0.5])
    assert torch.allclose(keep_mass(weights, mass), weights * double([0.875 / 0.8125], [1.0]), rtol=0, atol=1e-15)
    assert keep_mass(weights, mass)[0].sum().item() == pytest.approx(0.875, abs=1e-15)


def test_the_quotient_of_keep_has_no_gradient():
    weights, mass = double([0.5, 0.25, 0.0625]).requires_grad_(), double([0.875]).requires_grad_()
    (keep_mass(weights, mass) * double([1.0, 10.0, 100.0])).sum().backward()
    assert torch.allclose(weights.grad, double([1.0, 10.0, 100.0]) * 0.875 / 0.8125, rtol=0, atol=1e-12)
    assert mass.grad is None
    other = double([0.5, 0.25, 0.0625]).requires_grad_()
    (other * 0.875 / other.sum() * double([1.0, 10.0, 100.0])).sum().backward()
    assert (other.grad - weights.grad).abs().max() > 1, "control: with its gradient it would be another one"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.5, 0.25, 0.0625], [(0.875 - 0.125) * 2 / 3, (0.875 - 0.125) / 3, 0.125]),  # raised to 0.125
        ([0.25, 0.25, 0.1875], [0.34375, 0.34375, 0.1875]),  # above the floor: as it is
        ([0.03125, 0.0, 1.0], [0.0, 0.0, 0.875]),  # outweighs the mass alone
    ],
)
def test_the_floor_by_hand(weights, expected):
    is_condenser = torch.tensor([[False, False, True]])
    found = raise_to_floor(double(weights), is_condenser, double([0.875]), double([0.125]))
    assert torch.allclose(found, double(expected), rtol=0, atol=1e-15)
    assert found.sum().item() == pytest.approx(0.875, abs=1e-15)


def test_the_floor_s_gradients():
    weights, mass = double([0.5, 0.25, 0.0625], [0.25, 0.25, 0.1875]).requires_grad_(), double([0.875], [0.875])
    is_condenser = torch.tensor([[False, False, True]] * 2)
    found = raise_to_floor(weights, is_condenser, mass.requires_grad_(), 0.125 * torch.ones_like(mass))
    (found * double([1.0, 10.0, 100.0])).sum().backward()
    assert torch.allclose(weights.grad[0], double([1.0, 10.0, 0.0]), rtol=0, atol=1e-12)  # 0.75 / 0.75; raised: none
    assert torch.allclose(weights.grad[1], double([1.375, 13.75, 100.0]), rtol=0, atol=1e-12)
    assert mass.grad is None


def test_routing_with_each_switch():
    paper, chosen = route(LOGITS, ZERO, FOUR, top_k=3)
    kept, same = route(LOGITS, ZERO, FOUR, top_k=3, config=KEEP)
    floored, _ = route(LOGITS, ZERO, FOUR, top_k=3, config=FLOOR)
    assert torch.equal(chosen, same)
    assert paper.sum(-1).tolist() == pytest.approx([13 / 16] * 2)
    assert kept.sum(-1).tolist() == pytest.approx([14 / 16] * 2)
    assert torch.allclose(kept, paper * 14 / 13)
    assert floored.sum(-1).tolist() == pytest.approx([14 / 16] * 2)
    assert floored[chosen == 4].tolist() == pytest.approx([0.5 * 14 / 16 / 3] * 2), "phi S_K / K"


@pytest.mark.parametrize("config", [KEEP, FLOOR], ids=["keep", "floor"])
def test_without_condensers_they_are_paper_bit_for_bit(config):
    bias = torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0])
    assert torch.equal(route(LOGITS, bias, NOBODY, top_k=3, config=config)[0], route(LOGITS, bias, NOBODY, top_k=3)[0])
    assert not torch.equal(route(LOGITS, bias, FOUR, top_k=3, config=config)[0], route(LOGITS, bias, FOUR, top_k=3)[0])


def test_weights_of_shared_experts_stay():
    scoring = Scoring(function="sigmoid", in_logs=True, normalize=True, num_shared=1, scale=2.0)
    logits = torch.cat([LOGITS, torch.zeros(2, 1)], dim=-1)
    paper, _ = route(logits, ZERO, FOUR, top_k=3, scoring=scoring)
    kept, indices = route(logits, ZERO, FOUR, top_k=3, scoring=scoring, config=KEEP)
    assert kept.shape == (2, 4)
    assert indices.shape == (2, 3)
    assert torch.equal(kept[:, 3], paper[:, 3])
    assert torch.allclose(kept[:, :3].sum(-1, keepdim=True), own_mass(logits, 3, scoring))


def outputs(family, condensers=True, **switches):
    model = attach(tiny_model(family), RoutingConfig(**switches))
    if condensers:
        set_condensers(model, {index: [1, 6] for index in range(len(moe_layers(model)))})
    with torch.no_grad():
        return model(input_ids=tiny_batch(2, 7)).logits


@pytest.mark.parametrize(("family", "renormalises"), FAMILIES.items())
def test_in_a_model(family, renormalises):
    with torch.no_grad():
        stock = tiny_model(family)(input_ids=tiny_batch(2, 7)).logits
    assert torch.equal(outputs(family, condensers=False, condenser_mass="keep"), stock)
    paper, kept = outputs(family), outputs(family, condenser_mass="keep")
    assert torch.allclose(kept, paper, rtol=0, atol=1e-6) == renormalises
    floored = outputs(family, condenser_gate_floor=1.0)
    assert (floored - paper).abs().max() > 1e-3
    assert (floored - kept).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condenser_gate_floor": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"condenser_gate_floor": 1.5}, "above 0 and at most 1; got 1.5"),
        ({"condenser_gate_floor": 0.5, "condenser_mass": "keep"}, "keeps the sum of the weights itself"),
        ({"condenser_mass": "keep", "preset": "reference"}, "leave out bias_in_weights, duplicates"),
        ({"condenser_gate_floor": 0.5, "budget": "additive", "duplicates": True}, "leave out bias_in_weights"),
    ],
)
def test_switches_without_a_meaning(options, message):
    with pytest.raises(RoutingError, match=message):
        RoutingConfig(**options)


def test_a_family_that_weighs_inputs_is_refused():
    with pytest.raises(RoutingError, match="llama4_text weighs the inputs of experts"):
        attach(tiny_model("llama4_text"), RoutingConfig(budget="additive", condenser_mass="keep"))
