import inspect
import json
import math

import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.functional.concentration import gini as gini_of
from expert_condenser.functional.selection import select_condensers
from tests.samples import folders

BIAS = torch.tensor([[0.3, -0.2, 0.1, -0.5, 0.0], [-0.1, 0.4, -0.4, 0.2, 0.3]])
USAGE = torch.tensor([[4, 9, 1, 7, 3], [2, 0, 8, 5, 6]])
NORMS = torch.tensor([[1.5, 1.1, 1.9, 1.2, 1.4], [2.1, 2.5, 2.2, 2.4, 2.3]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("lowest_bias", {0: [3, 1], 1: [2, 0]}),
        ("highest_bias", {0: [0, 2], 1: [1, 4]}),
        ("least_used", {0: [2, 4], 1: [1, 0]}),
        ("most_used", {0: [1, 3], 1: [2, 4]}),
        ("smallest_norm", {0: [1, 3], 1: [0, 2]}),
        ("largest_norm", {0: [2, 0], 1: [1, 3]}),
    ],
)
def test_ranking_rules(rule, expected):
    assert select_condensers(2, rule=rule, bias=BIAS, usage=USAGE, norms=NORMS) == expected


def test_the_default_is_the_papers_rule_and_numbers_may_differ_per_layer():
    assert select_condensers([0, 3], bias=BIAS, top_k=4) == {0: [], 1: [2, 0, 3]}
    assert select_condensers(1, bias=BIAS.bfloat16()) == {0: [3], 1: [2]}
    assert select_condensers(0, bias=torch.zeros(2, 3)) == {0: [], 1: []}


@pytest.mark.parametrize(
    ("rule", "usage", "expected"),
    [
        ("lowest_bias", None, [0, 1, 3]),
        ("lowest_bias", [5, 2, 0, 2, 1], [1, 3, 0]),
        ("highest_bias", None, [2, 4, 0]),
        ("highest_bias", [5, 2, 9, 2, 1], [4, 2, 1]),
        ("least_used", [5, 2, 9, 2, 9], [1, 3, 0]),
        ("most_used", [5, 2, 9, 2, 9], [2, 4, 0]),
    ],
)
def test_ties_go_to_lower_usage_then_lower_index(rule, usage, expected):
    bias = torch.tensor([[-0.1, -0.1, 0.1, -0.1, 0.1]])
    usage = None if usage is None else torch.tensor([usage])
    assert select_condensers(3, rule=rule, bias=bias, usage=usage) == {0: expected}


def test_random_depends_on_seed_and_layer_only():
    def draw(r, seed, experts):
        return select_condensers(r, rule="random", seed=seed, num_experts=experts)

    chosen = draw(4, 7, [9] * 5)
    assert all(len(set(ids)) == 4 and set(ids) <= set(range(9)) for ids in chosen.values())
    assert draw(2, 7, [9] * 3) == {layer: chosen[layer][:2] for layer in range(3)}
    assert draw([0, 0, 4], 7, 9)[2] == chosen[2]
    assert draw(4, 8, [9] * 5) != chosen
    assert len({tuple(ids) for ids in chosen.values()}) > 1
    assert draw(3, 1234, [8]) == {0: [5, 1, 6]}  # the same on every machine


def test_layers_of_different_size_ignore_the_padding():
    bias = torch.tensor([[0.2, -0.1, 0.0, math.nan], [0.2, -0.1, 0.0, -0.9]])
    assert select_condensers(1, bias=bias, num_experts=[3, 4]) == {0: [1], 1: [3]}
    with pytest.raises(RoutingError, match="bias must be finite; got nan or inf in layer 0;"):
        select_condensers(1, bias=bias, num_experts=4)


def test_explicit():
    ids = {2: [4, 1], 0: (0, 3)}
    expected = {0: [0, 3], 1: [], 2: [4, 1]}
    for counts in (0, [0, 0, 0], [2, 0, 2]):
        assert select_condensers(counts, rule="explicit", explicit=ids, num_experts=[5, 2, 6], top_k=3) == expected


@pytest.mark.parametrize(
    ("counts", "explicit", "message"),
    [
        (0, {3: [1]}, "layers are 0 to 2; got explicit ids for layer 3"),
        (0, {-1: [1], 5: []}, "got explicit ids for layers -1, 5"),
        (2, {0: [1, 2], 1: [0]}, r"\(layer 1: R = 2, layer 2: R = 2\); got layer 1: R = 1, layer 2: R = 0"),
        ([0, 2, 0], {0: [1], 1: [0, 1]}, r"\(layer 0: R = 0\); got layer 0: R = 1"),
        (0, {1: [0, 5]}, r"distinct and in 0\.\.4; got \[0, 5\] in layer 1"),
        (0, {1: [-1]}, r"in 0\.\.4; got \[-1\] in layer 1"),
        (0, {2: [3, 3]}, r"got \[3, 3\] in layer 2"),
        (0, {2: [0, 1, 2, 3]}, r"R <= K-1 = 3; got layer 2: R = 4"),
    ],
)
def test_explicit_refuses(counts, explicit, message):
    with pytest.raises(RoutingError, match=message):
        select_condensers(counts, rule="explicit", explicit=explicit, num_experts=[5, 5, 5], top_k=4)


@pytest.mark.parametrize(
    ("counts", "arguments", "message"),
    [
        (2, {"bias": torch.zeros(3, 4)}, "learnt bias; got all-equal bias in layers 0, 1, 2; run the sparsify phase"),
        ([0, 1], {"bias": torch.full((2, 4), 0.5), "usage": USAGE[:, :4]}, "all-equal bias in layer 1;"),
        (1, {"rule": "least_used", "usage": torch.zeros(1, 4)}, "counted usage; got all-equal usage in layer 0"),
        (1, {"rule": "largest_norm", "norms": torch.ones(1, 4)}, "measured norms; got all-equal norms in layer 0"),
        (1, {"usage": USAGE}, '"lowest_bias" needs bias; got none'),
        (1, {"rule": "highest_bias", "norms": NORMS}, '"highest_bias" needs bias; got none'),
        (1, {"rule": "least_used", "bias": BIAS}, '"least_used" needs usage; got none'),
        (1, {"rule": "most_used", "bias": BIAS}, '"most_used" needs usage; got none'),
        (1, {"rule": "smallest_norm", "bias": BIAS}, '"smallest_norm" needs norms; got none'),
        (1, {"rule": "largest_norm", "bias": BIAS}, '"largest_norm" needs norms; got none'),
        (1, {"rule": "random", "bias": BIAS}, '"random" needs seed; got none'),
        (1, {"rule": "explicit", "bias": BIAS}, '"explicit" needs explicit; got none'),
        (1, {"bias": BIAS, "explicit": {0: [1]}}, 'only rule "explicit" reads explicit; got rule "lowest_bias"'),
        (1, {"bias": torch.tensor([[0.0, math.inf, 1.0]])}, "bias must be finite; got nan or inf in layer 0"),
        (1, {"bias": BIAS, "usage": USAGE / 0}, "usage must be finite; got nan or inf in layers 0, 1"),
        (5, {"bias": BIAS}, ">= 0 and below E; got layer 0: R = 5, layer 1: R = 5 with E = 5, 5"),
        ([1, -1], {"bias": BIAS}, ">= 0 and below E; got layer 1: R = -1 with E = 5"),
        ([3, 4], {"bias": BIAS, "top_k": 4}, "R <= K-1 = 3; got layer 1: R = 4"),
        ([1, 1, 1], {"bias": BIAS}, r"one number of layers, 1 or more; got \{'bias': 2, 'num_condensers': 3\}"),
        (1, {"rule": "random", "seed": 0, "num_experts": 4}, "one number of layers, 1 or more; got none"),
        ([1], {"rule": "random", "seed": 0}, "one number of experts, 1 or more; got none"),
        ([], {"rule": "random", "seed": 0, "num_experts": 4}, "layers, 1 or more; got {'num_condensers': 0}"),
        (1, {"rule": "random", "seed": 0, "num_experts": []}, "layers, 1 or more; got {'num_experts': 0}"),
        (1, {"bias": BIAS, "num_experts": [5] * 3}, r"number of layers.* got \{'bias': 2, 'num_experts': 3\}"),
        (1, {"bias": BIAS, "num_experts": [4, 4]}, r"one number of experts.* got \{'bias': 5, 'num_experts': 4\}"),
    ],
)
def test_refuses(counts, arguments, message):
    with pytest.raises(RoutingError, match=message):
        select_condensers(counts, **arguments)


def test_one_differing_bias_is_a_learnt_one():
    bias = torch.zeros(1, 4)
    bias[0, 2] = 1e-4
    assert select_condensers(1, rule="highest_bias", bias=bias) == {0: [2]}


def test_an_unknown_rule_is_refused():
    unchecked = inspect.unwrap(select_condensers)  # the type checker of the tests would refuse it first
    with pytest.raises(RoutingError, match=r'one of lowest_bias, .*explicit; got "loudest"'):
        unchecked(1, rule="loudest", bias=BIAS)


@pytest.mark.parametrize(
    "path",
    [path for folder in folders("router_usage", "router_usage") for path in sorted(folder.glob("*.json"))],
    ids=lambda path: path.stem,
)
def test_records_of_a_router(path):
    record = json.loads(path.read_text())
    usage = torch.tensor(record["selection_counts"])
    counts = Allocation.parse("gini:2:2").per_layer(len(usage), gini_of(usage), record["top_k"] - 1)
    assert sum(counts) == 2 * len(usage)
    assert len(set(counts)) > 1
    chosen = select_condensers(counts, rule="least_used", usage=usage, top_k=record["top_k"])
    for layer, row in enumerate(record["selection_counts"]):
        assert chosen[layer] == sorted(range(len(row)), key=lambda i, row=row: (row[i], i))[: counts[layer]]
    assert chosen != select_condensers(counts, rule="most_used", usage=usage)
