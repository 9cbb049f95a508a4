"""`U_i`: by hand in float64, and against the derivative of the loss itself."""

import json

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, moe_layers
from expert_condenser.errors import RoutingError, TrainingError, UnsupportedModelError
from expert_condenser.functional.selection import select_condensers
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.counterfactual import expert_utilities, utilities_from
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.moe.probe import IGNORED, Batch, num_targets, shares_of_loss
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.run import train
from tests.runs import assert_identical, config, interrupted, make_base, read


def batch(rows=3, length=9, seed=0, padded=2):
    """Rows whose first tokens are not learnt, and whose last ones are padding in all but the first."""
    ids = tiny_batch(rows, length, seed=seed)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :3] = IGNORED
    labels[1:, length - padded :], mask[1:, length - padded :] = IGNORED, 0
    return Batch(ids, mask, labels)


def test_by_hand():
    """Two tokens, three experts, K = 2; the second token's experts weigh 0.5 together."""
    products = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    weights = torch.tensor([[0.75, 0.25], [0.25, 0.25]], dtype=torch.float64)
    chosen = torch.tensor([[True, True, False], [False, True, True]])
    own = torch.tensor([1.25, 2.75], dtype=torch.float64)
    found = utilities_from(products, own, weights, chosen)
    assert found.tolist() == pytest.approx([-0.25 * (4.0 - 5.5), 0.0, -0.5 * (3.0 - 1.25)], abs=1e-15)
    nothing = utilities_from(products, own, torch.zeros_like(weights), chosen)
    assert nothing.tolist() == [0.0, 0.0, 0.0]


def derivative(model, batches, index, expert):
    """`-dL/de / N` of the loss with `e (S_K / K) (E_i - y / S_K)` added where i was not chosen: autograd's own way."""
    layer, amount = moe_layers(model)[index], torch.zeros((), requires_grad=True)
    heard = []

    def add(experts, args, output):
        choice = heard.pop()
        weights, indices = choice.weights, choice.indices
        mass = weights.sum(-1, keepdim=True)
        hidden = args[0]
        alone = experts.forward(hidden, torch.full_like(indices[:, :1], expert), torch.ones_like(weights[:, :1]))
        absent = (indices != expert).all(-1, keepdim=True)
        return output + amount * absent * mass / indices.shape[1] * (alone - output / mass)

    stop, hook = on_choice(layer, heard.append), layer.experts.register_forward_hook(add)
    for _, share in shares_of_loss(model, batches):
        share.backward()
    stop()
    hook.remove()
    model.zero_grad()
    return -amount.grad.item() / sum(int(b.attention_mask.sum()) for b in batches)


@pytest.mark.parametrize("implementation", ["eager", "sorted_mm"])
@pytest.mark.parametrize("family", ["olmoe", "mixtral", "qwen3_moe", "deepseek_v2"])
def test_against_the_derivative_of_the_loss(family, implementation):
    model, batches = tiny_model(family), [batch(), batch(2, 7, seed=1)]
    model.set_experts_implementation(implementation)
    found = expert_utilities(model, batches)
    for index, expert in [(0, 1), (0, 6), (len(moe_layers(model)) - 1, 3)]:
        wanted = derivative(model, batches, index, expert)
        assert found.utility[index, expert].item() == pytest.approx(wanted, rel=1e-3, abs=1e-9)
        assert wanted != 0
    assert len(found.utility[0].unique()) == 8, "control: experts differ"
    assert found.counts.sum(-1).tolist() == [3 * (9 + 7 + 7 + 7 + 5)] * len(found.counts), "padding does not count"


def test_the_model_is_left_as_it_was():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expert_utilities(model, [batch()])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(layer.experts._forward_hooks or layer.router._forward_hooks for layer in moe_layers(model))


def test_the_shares_add_up_to_the_mean_nll():
    model, rows = tiny_model(), batch(2, 8, padded=0)
    ((_, whole),) = shares_of_loss(model, [rows])
    assert num_targets(rows) == 2 * 5
    stock = model(input_ids=rows.input_ids, labels=rows.labels).loss
    assert whole.item() == pytest.approx(stock.item(), rel=1e-5)


def test_a_family_that_weighs_inputs_is_refused():
    with pytest.raises(UnsupportedModelError, match="weighs the input of an expert"):
        expert_utilities(tiny_model("llama4_text"), [batch()])


def test_the_choice_is_among_the_less_used_half():
    utility = torch.tensor([[0.9, 0.1, 0.8, -1.0, 0.3, 0.2]])
    usage = torch.tensor([[50, 1, 2, 3, 40, 3]])
    chosen = select_condensers(2, rule="counterfactual", utility=utility, usage=usage)
    assert chosen == {0: [2, 1]}, "0 is busy; 5 ties with 3 and has the higher index"
    assert select_condensers(2, rule="counterfactual", utility=utility, usage=-usage) == {0: [0, 4]}
    with pytest.raises(RoutingError, match="among the less used half; got layer 0: R = 4"):
        select_condensers(4, rule="counterfactual", utility=utility, usage=usage)
    with pytest.raises(RoutingError, match="needs usage"):
        select_condensers(2, rule="counterfactual", utility=utility)
    with pytest.raises(RoutingError, match="needs utility"):
        select_condensers(2, rule="counterfactual", usage=usage)


@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
def test_the_method_in_one_phase(family):
    options = MethodConfig(condenser_rule="counterfactual", one_phase=True, counterfactual_rows=5)
    method, model = METHODS["condenser"](options), tiny_model(family)
    assert method.probe_rows == 5
    method.probe(model, [batch()])
    method.prepare(model)
    found = expert_utilities(tiny_model(family), [batch()])
    wanted = select_condensers(2, rule="counterfactual", utility=found.utility, usage=found.counts)
    assert condensers_of(model) == wanted
    report = method.artifacts(model)["condensers.json"]
    assert report["layers"][1]["utility"] == found.utility[1].tolist()
    assert "rows_usage" in json.dumps(report)
    with pytest.raises(RoutingError, match="needs utility"):
        METHODS["condenser"](options).prepare(tiny_model(family))


def test_options_without_a_meaning():
    with pytest.raises(TrainingError, match="counterfactual_rows is of condenser_rule 'counterfactual'"):
        METHODS["condenser"].Config(counterfactual_rows=5)
    with pytest.raises(TrainingError, match="at least 1; got 0"):
        METHODS["condenser"].Config(counterfactual_rows=0, condenser_rule="counterfactual")
    assert METHODS["condenser"](METHODS["condenser"].Config(condenser_rule="counterfactual")).probe_rows == 0


def test_a_run_chooses_once_and_resumes(tmp_path):
    base, options = make_base(tmp_path), {"num_train_epochs": 2.0, "condenser_rule": "counterfactual"}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "condense", "on_step_begin", 2, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole")
    layers = read(tmp_path / "whole" / "condensers.json")["layers"]
    for layer in layers:
        usage, utility = layer["rows_usage"], layer["utility"]
        half = sorted(range(8), key=lambda i: (usage[i], i))[:4]
        assert layer["condensers"] == [max(half, key=lambda i: utility[i])]
