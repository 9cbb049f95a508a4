"""`condenser`: phase 1 learns the bias, phase 2 chooses the condensers once and trains them on every token."""

import json

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, attach, moe_layers, set_condensers
from expert_condenser.errors import ExpertCondenserError, RoutingError, TrainingError
from expert_condenser.functional.selection import select_condensers
from expert_condenser.methods.condenser import Condenser
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model

GAMMA1, GAMMA2 = 0.25, 0.0625
BIASES = torch.tensor(
    [
        [0.5, -0.5, 0.0, 0.25, -0.25, 0.5, 0.0, 0.75],
        [-0.5, 0.25, 0.5, 0.0, 0.75, -0.25, 1.0, 0.5],
        [0.25, 0.5, -0.5, 0.5, 0.0, 0.75, 1.0, -0.75],
    ]
)
USAGE = torch.tensor([[9, 8, 7, 6, 5, 4, 3, 2], [0, 1, 2, 3, 4, 5, 6, 7], [90, 1, 2, 1, 2, 1, 2, 3]])


def phase(name, model=None, biases=BIASES, usage=USAGE, **options):
    """A prepared method; in phase 2 on a model that phase 1 left with `biases` and `usage`."""
    config = MethodConfig(bias_step=GAMMA1, bias_step_condense=GAMMA2, **options)
    model = model or tiny_model()
    method = Condenser(config, name)
    if name == "condense" and not hasattr(model.config, "condenser"):
        attach(model, config.routing())
        for layer, bias in zip(moe_layers(model), biases, strict=True):
            layer.router.selection_bias.copy_(bias)
        method.usage = usage
    method.prepare(model)
    return method, model


def test_phase_1_moves_the_bias_by_gamma1_and_adds_up_the_usage():
    method, model = phase("sparsify")
    method.step(USAGE)
    method.step(USAGE)
    assert not any(condensers_of(model).values())
    assert torch.equal(selection_biases(model)[1], 2 * GAMMA1 * torch.tensor([-1.0] * 4 + [1.0] * 4))
    assert torch.equal(method.usage, 2 * USAGE)
    assert method.metrics() == {"bias_range": pytest.approx(4 * GAMMA1)}


def test_phase_2_moves_the_others_by_gamma2_and_leaves_the_condensers():
    method, model = phase("condense")
    assert condensers_of(model) == {0: [1, 4], 1: [0, 5], 2: [7, 2]}
    # Mean of the six others: 4. With the condensers it would be 28, and experts 2 and 6 would fall.
    usage = torch.tensor([[4, 100, 5, 3, 92, 4, 6, 2]] * 3)
    method.step(usage)
    moved = selection_biases(model) - BIASES
    assert torch.equal(moved[0], GAMMA2 * torch.tensor([0.0, 0, 1, -1, 0, 0, 1, -1]))
    for layer, ids in condensers_of(model).items():
        assert moved[layer, ids].tolist() == [0.0, 0.0]
    assert torch.equal(method.usage, USAGE), "what chose the condensers stays as phase 1 left it"


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("lowest_bias", {0: [1, 4], 1: [0, 5], 2: [7, 2]}),
        ("highest_bias", {0: [7, 5], 1: [6, 4], 2: [6, 5]}),  # layer 0: 5 before 0, being used less
        ("least_used", {0: [7, 6], 1: [0, 1], 2: [1, 3]}),
        ("most_used", {0: [0, 1], 1: [7, 6], 2: [0, 7]}),
        ("smallest_norm", {0: [3, 6], 1: [3, 6], 2: [3, 6]}),
        ("largest_norm", {0: [5, 2], 1: [5, 2], 2: [5, 2]}),
    ],
)
def test_each_rule_chooses_by_its_own_numbers(rule, chosen):
    model = tiny_model()
    for layer in moe_layers(model):
        for expert, scale in {3: 0.1, 6: 0.2, 2: 8.0, 5: 9.0}.items():
            layer.experts.down_proj.data[expert] *= scale
            layer.experts.gate_up_proj.data[expert] *= scale
    assert condensers_of(phase("condense", model, condenser_rule=rule)[1]) == chosen


def test_random_depends_on_the_seed_alone():
    found = [condensers_of(phase("condense", condenser_rule="random", selection_seed=seed)[1]) for seed in (0, 0, 5)]
    assert found[0] == select_condensers([2, 2, 2], rule="random", seed=0, num_experts=8)
    assert found[0] == found[1] != found[2]


def test_explicit_reads_the_condensers_of_another_run(tmp_path):
    first, model = phase("condense", num_condensers="2/1/0")
    path = tmp_path / "condensers.json"
    path.write_text(json.dumps(first.artifacts(model)["condensers.json"]))
    options = {"condenser_rule": "explicit", "condensers_file": str(path)}
    _, other = phase("condense", biases=-BIASES, num_condensers="2/1/0", **options)
    assert condensers_of(other) == condensers_of(model) == {0: [1, 4], 1: [0], 2: []}
    phase("sparsify", num_condensers="2/1/0", **options)
    with pytest.raises(TrainingError, match="condensers_file"):
        phase("sparsify", condenser_rule="explicit")
    with pytest.raises(RoutingError, match="explicit must match num_condensers"):
        phase("condense", num_condensers="2", **options)


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file | {"format_version": 9},
        lambda file: file | {"layers": [entry | {"condensers": ["1"]} for entry in file["layers"]]},
        lambda file: file | {"layers": [entry | {"condensers": [1.0]} for entry in file["layers"]]},
        lambda file: file | {"layers": [entry | {"condensers": [True]} for entry in file["layers"]]},
        lambda file: file | {"layers": [entry | {"condensers": None} for entry in file["layers"]]},
        lambda file: file | {"layers": [entry | {"layer": False} for entry in file["layers"]]},
        lambda file: file["layers"],
    ],
)
def test_a_file_of_other_kinds_is_none_of_condensers(edit, tmp_path):
    first, model = phase("condense", num_condensers="1")
    path, content = tmp_path / "condensers.json", first.artifacts(model)["condensers.json"]
    options = {"condenser_rule": "explicit", "condensers_file": str(path), "num_condensers": "1"}
    path.write_text(json.dumps(content))
    phase("condense", **options)
    path.write_text(json.dumps(edit(content)))
    with pytest.raises(TrainingError, match=r"condensers_file is the condensers\.json of a run"):
        phase("condense", **options)


def test_condensers_are_chosen_once():
    _, model = phase("condense")
    chosen = condensers_of(model)
    for layer in moe_layers(model):
        layer.router.selection_bias.neg_()
    again, _ = phase("condense", model)
    assert condensers_of(model) == chosen
    assert again.choose(model) == {0: [7, 0], 1: [6, 4], 2: [6, 5]}, "control: a new choice would be another one"
    assert [layer.router.condenser_ids.dtype for layer in moe_layers(model)] == [torch.int64] * 3


def test_a_bias_that_learnt_nothing_chooses_nobody():
    with pytest.raises(
        RoutingError, match=r"learnt bias; got all-equal bias in layers 0, 1, 2; run the sparsify phase"
    ):
        phase("condense", biases=torch.zeros(3, 8))
    one_layer = BIASES * torch.tensor([[1.0], [0.0], [1.0]])
    with pytest.raises(RoutingError, match="all-equal bias in layer 1"):
        phase("condense", biases=one_layer)
    assert condensers_of(phase("condense", biases=one_layer, num_condensers="2/0/1")[1]) == {0: [1, 4], 1: [], 2: [7]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_condensers": "3"}, r"at most 2 condensers; got \"3\".*layer 0: R = 3.*lower R"),
        ({"num_condensers": "1/3/2"}, "layer 1: R = 3"),
        ({"num_condensers": "8", "budget": "additive"}, "at most 5 condensers"),
        ({"num_condensers": "two"}, "condensers per layer are"),
    ],
)
def test_a_number_of_condensers_that_does_not_fit_is_refused_before_phase_1(options, message):
    with pytest.raises(RoutingError, match=message):
        phase("sparsify", **options)


def test_the_additive_budget_has_room_for_more():
    _, model = phase("condense", num_condensers="3", budget="additive")
    assert [len(ids) for ids in condensers_of(model).values()] == [3, 3, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"condenser_rule": "lowest"},
        {"num_condensers": "gini:two"},
        {"num_condensers": "gini:3"},
        {"condenser_rule": "explicit", "condensers_file": "missing.json"},
        {"condensers_file": "some.json"},
        {"selection_seed": 3},
    ],
    ids=str,
)
def test_what_phase_2_cannot_use_is_refused_before_phase_1(options):
    with pytest.raises(ExpertCondenserError):
        phase("sparsify", **options)


def test_gini_gives_more_condensers_to_concentrated_layers():
    phase("sparsify", num_condensers="gini:1")
    _, model = phase("condense", num_condensers="gini:1")
    assert [len(ids) for ids in condensers_of(model).values()] == [0, 1, 2]
    _, model = phase("condense", num_condensers="gini:2")
    assert [len(ids) for ids in condensers_of(model).values()] == [2, 2, 2], "the mean is also the maximum"
    with pytest.raises(RoutingError, match=r"needs a Gini index for each of 3 layers; got none"):
        phase("condense", num_condensers="gini:2", usage=None)


def test_report_says_who_and_from_which_numbers():
    method, model = phase("condense", num_condensers="2/1/0")
    report = json.loads(json.dumps(method.artifacts(model)))["condensers.json"]
    assert (report["rule"], report["num_condensers"]) == ("lowest_bias", "2/1/0")
    assert [entry["layer"] for entry in report["layers"]] == [0, 1, 2]
    assert [entry["router"] for entry in report["layers"]] == [layer.name for layer in moe_layers(model)]
    assert [entry["condensers"] for entry in report["layers"]] == [[1, 4], [0], []]
    assert [entry["bias_of_condensers"] for entry in report["layers"]] == [[-0.5, -0.25], [-0.5], []]
    assert [entry["usage_of_condensers"] for entry in report["layers"]] == [[8, 5], [0], []]
    assert [entry["bias"] for entry in report["layers"]] == BIASES.tolist()
    assert [entry["usage"] for entry in report["layers"]] == USAGE.tolist()


def resumed(method, name):
    other, _ = phase(name, usage=None)
    other.load_state_dict(json.loads(json.dumps(method.state_dict())))
    return other


@pytest.mark.parametrize("source", ["sparsify", "condense"])
def test_phase_1s_usage_survives_a_resume(source):
    method, _ = phase(source)
    method.usage = USAGE
    for target in ("sparsify", "condense"):
        if (source, target) != ("condense", "sparsify"):
            assert torch.equal(resumed(method, target).usage, USAGE)
    assert resumed(phase("sparsify")[0], "sparsify").usage is None


def test_phase_1s_mass_survives_a_resume_exactly():
    method, _ = phase("sparsify", routing_preset="reference")
    method.step(torch.full((3, 8), 1 / 3, dtype=torch.float64))
    other = resumed(method, "sparsify")
    assert other.usage.dtype == torch.float64
    assert torch.equal(other.usage, method.usage)


def gradients(model, ids):
    """Per layer: sums of |gradient| of every expert's parameters `(P, E)` and router row `(E,)`, and the counts."""
    model.train().zero_grad()
    for layer in moe_layers(model):
        layer.router.counter.reset()
    model(input_ids=ids, labels=ids).loss.backward()
    for layer in moe_layers(model):
        experts = torch.stack([p.grad.flatten(1).abs().sum(1) for p in layer.experts.parameters()])
        yield experts, layer.router.weight.grad.abs().sum(1), layer.router.counter.counts


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_condensers_learn_on_every_step_and_unchosen_experts_on_none(name):
    layers = len(moe_layers(tiny_model(name)))
    # Deep below what a token could choose, so that only being a condenser can make these experts active.
    biases = torch.zeros(layers, 8)
    biases[:, [1, 4]] = torch.tensor([-200.0, -100.0])
    _, model = phase("condense", tiny_model(name), biases=biases, usage=torch.ones(layers, 8))
    assert condensers_of(model) == {layer: [1, 4] for layer in range(layers)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        ids, unchosen = tiny_batch(1, 4, seed=step), 0
        for experts, router, counts in gradients(model, ids):
            assert counts[[1, 4]].tolist() == [4, 4]
            assert (experts[:, [1, 4]] > 0).all()
            assert (router[[1, 4]] > 0).all()
            assert (experts[:, counts == 0] == 0).all()
            unchosen += int((counts == 0).sum())
        assert unchosen >= 2 * layers
        optimizer.step()


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_without_condensers_the_same_experts_get_no_gradient(name):
    method, model = METHODS["bias_only"](), tiny_model(name)
    method.prepare(model)
    for layer in moe_layers(model):
        layer.router.selection_bias[[1, 4]] = -100.0
    for experts, _, counts in gradients(model, tiny_batch(1, 4)):
        assert counts[[1, 4]].tolist() == [0, 0]
        assert (experts[:, [1, 4]] == 0).all()


def test_condensers_that_are_set_by_hand_are_kept():
    _, model = phase("sparsify")
    set_condensers(model, {0: [3, 6], 1: [2, 5], 2: [0, 7]})
    phase("condense", model)
    assert condensers_of(model) == {0: [3, 6], 1: [2, 5], 2: [0, 7]}


# Ties of the bias are ties of whole steps.


def walk(seed, gamma, **options):
    """A phase 1 of random usage in eight steps, its model, and the exact sums of signs, by counting."""
    method, model = METHODS["condenser"](MethodConfig(bias_step=gamma, **options)), tiny_model()
    method.prepare(model)
    generator, sums = torch.Generator().manual_seed(seed), torch.zeros(3, 8, dtype=torch.int64)
    for _ in range(8):
        usage = torch.randint(0, 4, (3, 8), generator=generator)
        method.step(usage)
        for layer, row in enumerate(usage.tolist()):
            sums[layer] += torch.tensor([(8 * u > sum(row)) - (8 * u < sum(row)) for u in row])
    return method, model, sums


def lowest(sums, usage, count=2):
    """The first experts by sum, then usage, then index."""
    keys = [sorted(range(8), key=lambda i: (row[i], used[i], i)) for row, used in zip(sums, usage, strict=True)]
    return {layer: order[:count] for layer, order in enumerate(keys)}


@pytest.mark.parametrize("options", [{}, {"bias_center": "mean"}, {"routing_preset": "reference"}], ids=str)
def test_equal_sums_of_steps_go_to_lower_usage(options):
    by_rounding = 0
    for seed in range(30):
        method, model, sums = walk(seed, 0.1, **options)
        assert torch.equal(method.bias_steps, sums)
        expected = lowest(sums.tolist(), method.usage.tolist())
        assert method.choose(model) == expected
        by_rounding += lowest(selection_biases(model).tolist(), method.usage.tolist()) != expected
    assert by_rounding > 3, "control: the float32 bias breaks ties by rounding"


def test_the_bias_is_what_it_was_to_the_bit():
    _, model, _ = walk(0, 0.1)
    other, same = METHODS["bias_only"](MethodConfig(bias_step=0.1)), tiny_model()
    other.prepare(same)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        other.step(torch.randint(0, 4, (3, 8), generator=generator))
    assert torch.equal(selection_biases(model), selection_biases(same))


def test_whole_steps_survive_a_resume_and_reach_phase_2():
    method, model, sums = walk(3, 0.1)
    state = json.loads(json.dumps(method.state_dict()))
    second = METHODS["condenser"](MethodConfig(bias_step=0.1), "condense")
    second.load_state_dict(state)
    second.prepare(model)
    assert condensers_of(model) == lowest(sums.tolist(), method.usage.tolist())
    assert second.state_dict()["bias_steps"] == sums.tolist()


def test_a_state_of_an_earlier_release_ranks_by_the_bias():
    method, model, _ = walk(1, 0.1)
    state = json.loads(json.dumps(method.state_dict()))
    del state["bias_steps"]
    method.load_state_dict(state)
    assert method.choose(model) == lowest(selection_biases(model).tolist(), method.usage.tolist())
    method.step(torch.arange(24).reshape(3, 8))
    assert method.bias_steps is None, "a part of the steps says nothing"


@pytest.mark.parametrize(("options", "change"), [({"bias_clip": 0.15}, 1.0), ({}, -1.0)], ids=["bound", "by hand"])
def test_a_bias_that_its_steps_do_not_explain_ranks_itself(options, change):
    method, model, _ = walk(1, 0.1, **options)
    for layer in moe_layers(model):
        layer.router.selection_bias.mul_(change)
    assert method.choose(model) == lowest(selection_biases(model).tolist(), method.usage.tolist())
    assert method.choose(model) != lowest(method.bias_steps.tolist(), method.usage.tolist()), "control"
