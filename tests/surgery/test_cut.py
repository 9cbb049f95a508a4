"""A model from which experts were cut computes what the whole one does while no token may choose them."""

from pathlib import Path

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.cli.catalog import catalog
from expert_condenser.cli.families import is_prunable, prunings
from expert_condenser.errors import SurgeryError
from expert_condenser.functional.routing import route
from expert_condenser.moe import projections
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.own_types import condensers_of as condensers
from expert_condenser.moe.own_types import selection_biases
from expert_condenser.moe.without_experts import without_experts
from expert_condenser.surgery.cut import _COUNTS, condensers_of, cut_experts
from expert_condenser.surgery.removal import lowest_scored
from expert_condenser.surgery.unprunable import UNPRUNABLE
from expert_condenser.testing import tiny_batch, tiny_model

IDS = tiny_batch()
ROUNDING = 2e-6
"""Of a softmax over fewer numbers, and of a product with fewer rows."""
WORDS = {"deepseek_v4": "a table of experts for every token id", "ernie4_5_vl_moe": "cannot be pruned"}
"""What is said of a model; `UNPRUNABLE` says it of the family."""
VARIANTS = ("olmoe_normalized", "deepseek_v2_grouped")


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def sixteen(family):
    """A tiny model of sixteen experts; of four groups of four each."""
    config = tiny_model(family).config.get_text_config()
    if family == "dbrx":
        sizes = {"ffn_hidden_size": 20, "moe_num_experts": 16, "moe_top_k": 3}
        return tiny_model(family, ffn_config=sizes)
    return tiny_model(family, **{name: 16 for name in _COUNTS if isinstance(getattr(config, name, None), int)})


def tuned(model):
    """The model with a bias and a condenser per layer; condensers beside the one chosen where K is 1."""
    alone = moe_layers(model)[0].top_k == 1
    attach(model, RoutingConfig(budget="additive" if alone else "shared"))
    for at, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.linspace(-0.3, 0.3, layer.num_experts).roll(at))
    set_condensers(model, {at: [(3 * at + 1) % layer.num_weighted] for at, layer in enumerate(moe_layers(model))})
    return model


def chosen(model, seed=1):
    """Half of the experts, of every group: one ordinary expert is left in some beside a condenser."""
    layers = moe_layers(model)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(layers), layers[0].num_experts, dtype=torch.float64, generator=generator)
    return lowest_scored(scores, 8, layers, condensers_of(layers))


def by_rows(hidden, weight, bias=None):
    """A matrix product that rounds a row alike, however many there are."""
    logits = (hidden.unsqueeze(-2) * weight).sum(-1)
    return logits if bias is None else logits + bias


def is_exact(layer):
    """Whether a family scores every expert, or every chosen one, by itself: then nothing is rounded anew.

    And whether its logits are the product that `by_rows` stands for.
    """
    alone = layer.scoring.function in ("sigmoid", "topk_softmax", "topk_sigmoid", "sqrtsoftplus")
    return alone and layer.rule.logits not in (projections.afmoe, projections.hunyuan, projections.longcat)


def check(model, exact=False):
    removed, other = chosen(model), chosen(model, seed=2)
    with without_experts(model, removed, rescale=True):
        expected = logits_of(model)
    with without_experts(model, other, rescale=True):
        control = logits_of(model)
    small = cut_experts(model, removed)
    found = logits_of(small)
    left = moe_layers(model)[0].num_experts - len(removed[0])
    assert [layer.num_experts for layer in moe_layers(small)] == [left] * len(removed)
    if exact:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=1e-5)
    assert (control - expected).abs().max() > 20 * ROUNDING, "control: other experts"
    assert type(small) is type(model)


@pytest.mark.parametrize("family", [*VARIANTS, *(name for name in FAMILIES if name not in UNPRUNABLE)])
def test_it_is_the_model_without_these_experts(family, monkeypatch):
    check(sixteen(family))
    monkeypatch.setattr(projections, "linear", by_rows)  # which a router with a policy computes its logits by
    model = tuned(sixteen(family))
    check(model, exact=is_exact(moe_layers(model)[0]))


@pytest.mark.parametrize("family", UNPRUNABLE)
def test_a_family_that_cannot_have_fewer_is_refused(family):
    model = sixteen(family)
    with pytest.raises(SurgeryError, match=WORDS[family]):
        cut_experts(model, chosen(model))


def test_the_table_of_the_page_is_what_the_command_prints():
    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text()
    assert prunings(catalog()["families"]) in page
    rows = catalog()["families"]
    assert {row["model_type"] for row in rows if is_prunable(row)} == set(FAMILIES) - set(UNPRUNABLE)


def test_bias_and_condensers_follow_in_their_new_numbers():
    model = tuned(tiny_model("olmoe"))
    assert condensers(model) == {0: [1], 1: [4], 2: [7]}
    small = cut_experts(model, {0: [0, 5], 1: [6, 7], 2: [2, 3]})
    assert condensers(small) == {0: [0], 1: [4], 2: [5]}
    kept = [[1, 2, 3, 4, 6, 7], [0, 1, 2, 3, 4, 5], [0, 1, 4, 5, 6, 7]]
    before, after = selection_biases(model), selection_biases(small)
    assert torch.equal(after, torch.stack([row[ids] for row, ids in zip(before, kept, strict=True)]))
    assert small.config.num_experts == 6
    assert model.config.num_experts == 8, "the whole model is as it was"


def test_the_two_models_share_no_memory():
    model = tiny_model("olmoe")
    small, before = cut_experts(model, {at: [3] for at in range(3)}), logits_of(model)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(logits_of(model), before)


def test_dtypes_stay():
    model = tiny_model("minimax_m2").to(torch.bfloat16)
    wanted = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    small = cut_experts(model, {at: [3, 0] for at in range(3)})
    assert {name: tensor.dtype for name, tensor in small.state_dict().items()} == wanted


def test_the_reference_is_the_rule_of_routing():
    """The router of a cut model routes by the logits that are left."""
    model = tuned(tiny_model("olmoe"))
    removed = {at: [0, 5] for at in range(3)}
    small = cut_experts(model, removed)
    whole, cut = moe_layers(model)[0].router, moe_layers(small)[0].router
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    left = [1, 2, 3, 4, 6, 7]
    logits = (hidden @ whole.weight.T)[:, left]
    options = {"top_k": 3, "scoring": whole.rule.scoring(whole), "config": whole.policy}
    weights, indices = route(logits, whole.selection_bias[left], torch.tensor([0]), **options)
    _, found, places = cut(hidden)
    torch.testing.assert_close(found, weights)
    assert torch.equal(places, indices)
