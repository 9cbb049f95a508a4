import inspect
import math
import re

import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import (
    PAPER,
    RoutingConfig,
    check_condensers,
    choose_experts,
    count_usage,
    mass_usage,
    route,
)
from expert_condenser.functional.scoring import Scoring, gate_weights

REFERENCE = RoutingConfig(preset="reference")
ADDITIVE = RoutingConfig(budget="additive")
NONE = torch.zeros(0, dtype=torch.int64)
GROUPS = Scoring(num_groups=4, groups_kept=2, scale=1.5, sorted_slots=False, weights_in_float32=True)
FAMILIES = {
    "softmax": Scoring(),
    "normalize": Scoring(normalize=True),
    "scale": Scoring(scale=2.5),
    "normalize_scale": Scoring(normalize=True, scale=2.5),
    "topk_softmax": Scoring(function="topk_softmax"),
    "groups": GROUPS,
}
# Two tokens, five experts; the scores are n / 16.
PARTS = [[8, 4, 2, 1, 1], [1, 2, 8, 4, 1]]
LOGITS = torch.tensor(PARTS).log()
ZERO = torch.zeros(5)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def lift(expert, value, num_experts=5):
    """A bias for one expert."""
    bias = torch.zeros(num_experts)
    bias[expert] = value
    return bias


def slots(weights, indices):
    """Per token, `{expert: weight}` of distinct experts."""
    rows = zip(indices.tolist(), weights.tolist(), strict=True)
    pairs = [dict(zip(i, w, strict=True)) for i, w in rows]
    assert all(len(pair) == indices.shape[1] for pair in pairs), "an expert was chosen twice"
    return pairs


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def largest(values, candidates, n):
    return sorted(candidates, key=lambda i: -values[i])[:n]


def paper(z, beta, condensers, top_k, family):
    """METHOD section 1, preset `paper`, for one token: choose with the bias, weigh without it."""
    ranks = [a + b for a, b in zip(z, beta, strict=True)]
    free = [i for i in range(len(z)) if i not in condensers]
    size = len(z) // family.num_groups
    best = [max((ranks[i] for i in free if i // size == g), default=-math.inf) for g in range(family.num_groups)]
    kept = largest(best, range(family.num_groups), family.groups_kept)
    routed = largest(ranks, [i for i in free if i // size in kept], top_k - len(condensers))
    chosen = [*routed, *condensers]
    scores = softmax(z)
    weights = softmax([z[i] for i in chosen]) if family.function == "topk_softmax" else [scores[i] for i in chosen]
    total = sum(weights) if family.normalize else 1
    return {i: family.scale * w / total for i, w in zip(chosen, weights, strict=True)}


def reference(z, beta, condensers, top_k):
    """METHOD section 1, preset `reference`, for one token: K + R slots as (expert, weight) pairs."""
    p = softmax([a + b for a, b in zip(z, beta, strict=True)])
    return [(i, p[i]) for i in [*largest(p, range(len(z)), top_k), *condensers]]


def draw(seed, tokens=11, experts=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator), 2 * torch.randn(experts, generator=generator)


# Preset `paper`.


@pytest.mark.parametrize(
    ("family", "first", "second"),
    [
        ("softmax", [1 / 16, 8 / 16, 1 / 16], [4 / 16, 8 / 16, 1 / 16]),
        ("normalize", [1 / 10, 8 / 10, 1 / 10], [4 / 13, 8 / 13, 1 / 13]),
        ("scale", [2.5 / 16, 20 / 16, 2.5 / 16], [10 / 16, 20 / 16, 2.5 / 16]),
        ("normalize_scale", [2.5 / 10, 20 / 10, 2.5 / 10], [10 / 13, 20 / 13, 2.5 / 13]),
        ("topk_softmax", [1 / 10, 8 / 10, 1 / 10], [4 / 13, 8 / 13, 1 / 13]),
    ],
)
def test_paper_chooses_with_the_bias_and_weighs_without_it(family, first, second):
    bias = lift(3, math.log(16))
    weights, indices = route(LOGITS, bias, ids(4), top_k=3, scoring=FAMILIES[family])
    one, two = slots(weights, indices)
    assert one == pytest.approx(dict(zip([3, 0, 4], first, strict=True)))
    assert two == pytest.approx(dict(zip([3, 2, 4], second, strict=True)))
    assert slots(*route(LOGITS, ZERO, ids(4), top_k=3))[0].keys() == {0, 1, 4}


@pytest.mark.parametrize("condensers", [(), (7,), (2, 9), (0, 1, 11, 6)])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paper_equals_the_formula(seed, family, condensers):
    logits, bias = draw(seed)
    weights, indices = route(logits, bias, ids(*condensers), top_k=5, scoring=FAMILIES[family])
    expected = [paper(z, bias.tolist(), condensers, 5, FAMILIES[family]) for z in logits.tolist()]
    assert indices.shape == (11, 5)
    assert slots(weights, indices) == [pytest.approx(row) for row in expected]
    assert all(row.keys() >= set(condensers) for row in slots(weights, indices))
    unbiased = [paper(z, [0.0] * 12, condensers, 5, FAMILIES[family]) for z in logits.tolist()]
    assert [row.keys() for row in unbiased] != [row.keys() for row in expected]


def test_groups_are_chosen_with_the_bias_and_condensers_are_exempt_from_the_mask():
    logits = torch.tensor([[0.1, 0.2, 4.0, 0.3, 1.0, 2.0]])  # groups {0, 1}, {2, 3}, {4, 5}
    one_group = Scoring(num_groups=3, groups_kept=1)

    def chosen(condensers, bias=None, scoring=one_group):
        bias = torch.zeros(6) if bias is None else bias
        top_k = 3 if len(condensers) else 2
        return set(choose_experts(logits, bias, condensers, top_k=top_k, scoring=scoring)[0].tolist())

    assert chosen(NONE) == {2, 3}
    assert chosen(NONE, lift(1, 9.0, 6)) == {0, 1}
    assert chosen(ids(0)) == {0, 2, 3}
    assert chosen(ids(2)) == {2, 4, 5}, "a condenser does not win its group a place"
    assert chosen(ids(0), scoring=Scoring()) == {0, 2, 5}


# Preset `reference`.


def test_reference_chooses_and_weighs_with_the_bias_and_appends_the_condensers():
    bias = lift(3, math.log(16))
    weights, indices = route(LOGITS, bias, ids(3, 4), top_k=2, config=REFERENCE)
    assert indices.tolist() == [[3, 0, 3, 4], [3, 2, 3, 4]]
    assert weights[0].tolist() == pytest.approx([16 / 31, 8 / 31, 16 / 31, 1 / 31])
    assert weights[1].tolist() == pytest.approx([64 / 76, 8 / 76, 64 / 76, 1 / 76])
    assert count_usage(indices, 5).tolist() == [1, 0, 1, 4, 2]
    assert mass_usage(LOGITS + bias).tolist() == pytest.approx(
        [8 / 31 + 1 / 76, 4 / 31 + 2 / 76, 2 / 31 + 8 / 76, 16 / 31 + 64 / 76, 1 / 31 + 1 / 76]
    )
    unbiased, _ = route(LOGITS, ZERO, ids(3, 4), top_k=2, config=REFERENCE)
    assert unbiased[0].tolist() == pytest.approx([8 / 16, 4 / 16, 1 / 16, 1 / 16])


@pytest.mark.parametrize("condensers", [(), (7,), (9, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_equals_the_formula(seed, condensers):
    logits, bias = draw(seed)
    weights, indices = route(logits, bias, ids(*condensers), top_k=4, config=REFERENCE)
    expected = [reference(z, bias.tolist(), condensers, 4) for z in logits.tolist()]
    assert indices.tolist() == [[i for i, _ in row] for row in expected]
    assert weights.flatten().tolist() == pytest.approx([w for row in expected for _, w in row])
    unbiased, _ = route(logits, ZERO.new_zeros(12), ids(*condensers), top_k=4, config=REFERENCE)
    assert not torch.allclose(weights, unbiased)


# The switches, one at a time.


def test_bias_space():
    bias, score = lift(3, 0.3), RoutingConfig(bias_space="score")

    def chosen(config, scoring=FAMILIES["softmax"]):
        return choose_experts(LOGITS[:1], bias, NONE, top_k=2, config=config, scoring=scoring).tolist()

    assert chosen(score) == [[0, 3]]  # 8/16, then 1/16 + 0.3 before 4/16
    assert chosen(PAPER) == [[0, 1]]  # log 1 + 0.3 is behind log 4
    assert chosen(score, FAMILIES["topk_softmax"]) == [[0, 1]], "this family's scores are its logits"
    weights, _ = route(LOGITS[:1], bias, NONE, top_k=2, config=score)
    assert weights[0].tolist() == pytest.approx([8 / 16, 1 / 16])


def test_budget_and_duplicates():
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])

    def chosen(config):
        return choose_experts(logits, ZERO, ids(1, 0), top_k=3, config=config)[0].tolist()

    assert set(chosen(PAPER)) == {0, 1, 2}
    assert chosen(ADDITIVE) == [2, 3, 4, 1, 0]
    assert chosen(RoutingConfig(budget="additive", duplicates=True)) == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_additive_budget_is_k_of_the_others_and_the_condensers(seed):
    logits, bias = draw(seed)
    weights, indices = route(logits, bias, ids(7, 2), top_k=4, config=ADDITIVE)
    for z, row in zip(logits.tolist(), slots(weights, indices), strict=True):
        ranks = [a + b for a, b in zip(z, bias.tolist(), strict=True)]
        routed = largest(ranks, [i for i in range(12) if i not in (2, 7)], 4)
        assert row == pytest.approx({i: softmax(z)[i] for i in [*routed, 7, 2]})
    assert indices[:, 4:].tolist() == [[7, 2]] * 11


def test_additive_budget_without_duplicates_needs_k_plus_r_experts():
    with pytest.raises(RoutingError):
        check_condensers(2, 5, 4, ADDITIVE)


@pytest.mark.parametrize("family", ["softmax", "normalize", "topk_softmax"])
def test_bias_in_weights(family):
    bias, scoring = lift(3, math.log(16)), FAMILIES[family]
    weights, indices = route(LOGITS, bias, ids(4), top_k=3, scoring=scoring, config=RoutingConfig(bias_in_weights=True))
    total = 31 if family == "softmax" else 16 + 8 + 1
    assert slots(weights, indices)[0] == pytest.approx({3: 16 / total, 0: 8 / total, 4: 1 / total})
    assert torch.equal(weights, gate_weights(LOGITS + bias, indices, scoring))
    assert not torch.allclose(weights, gate_weights(LOGITS, indices, scoring))


def test_unsorted_slots_hold_the_same_experts():
    logits, bias = draw(5)
    one, two = (route(logits, bias, ids(3), top_k=4, scoring=Scoring(sorted_slots=flag)) for flag in (True, False))
    assert slots(*one) == slots(*two)


def test_weights_have_the_dtype_of_the_logits_unless_the_family_keeps_float32():
    for scoring in FAMILIES.values():
        weights, _ = route(torch.randn(3, 8).bfloat16(), torch.zeros(8), ids(1), top_k=3, scoring=scoring)
        assert weights.dtype == (torch.float32 if scoring.weights_in_float32 else torch.bfloat16)


# Gradients.


@pytest.mark.parametrize("config", [PAPER, ADDITIVE], ids=["shared", "additive"])
@pytest.mark.parametrize("family", ["softmax", "normalize", "topk_softmax"])
def test_the_gradient_is_that_of_the_weights_at_fixed_experts(family, config):
    logits, bias = draw(0)
    logits.requires_grad_()
    weights, indices = route(logits, bias, ids(2, 9), top_k=5, config=config, scoring=FAMILIES[family])
    coefficients = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    (weights * coefficients).sum().backward()
    received = torch.zeros_like(logits).scatter_(1, indices, coefficients)
    competitors = torch.zeros_like(logits).scatter_(1, indices, 1.0) if family != "softmax" else torch.ones(11, 12)
    scores = (logits.detach() + competitors.log()).softmax(-1)
    expected = scores * (received - (received * scores).sum(-1, keepdim=True))
    torch.testing.assert_close(logits.grad, expected)
    assert not torch.allclose(logits.grad, scores * received)


def test_a_condenser_gets_a_gradient_on_every_token_and_an_unchosen_expert_none():
    scoring, coefficients = FAMILIES["topk_softmax"], torch.tensor([1.0, -2.0, 5.0])

    def gradient(condensers):
        logits = draw(0)[0].index_fill(1, ids(4), -9.0).requires_grad_()  # the expert that nobody would choose
        weights, indices = route(logits, torch.zeros(12), condensers, top_k=3, scoring=scoring)
        (weights * coefficients).sum().backward()
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, indices, True)
        assert (logits.grad[~chosen] == 0).all()
        return logits.grad[:, 4]

    assert (gradient(ids(4)) != 0).all()
    assert (gradient(NONE) == 0).all()


def test_the_bias_gets_a_gradient_only_where_it_weighs():
    for config, expected in ((PAPER, False), (REFERENCE, True)):
        bias = lift(3, math.log(16)).requires_grad_()
        weights, indices = route(LOGITS.clone().requires_grad_(), bias, ids(4), top_k=3, config=config)
        weights[:, 0].sum().backward()
        assert (bias.grad is not None) == expected
        assert not indices.requires_grad


def test_given_indices_are_weighed_again_and_not_chosen_again():
    (before, bias), (after, _) = draw(0), draw(1)
    _, chosen = route(before, bias, ids(2), top_k=4)
    weights, replayed = route(after, bias, ids(2), top_k=4, indices=chosen)
    assert torch.equal(replayed, chosen)
    torch.testing.assert_close(weights, after.softmax(-1).gather(1, chosen))
    assert not torch.equal(route(after, bias, ids(2), top_k=4)[1], chosen)


# A bias of zero and no condensers: the family's own routing.


def plain(logits, top_k, family):
    """The routers of the families in transformers, as they are written there."""
    if family.function == "topk_softmax":
        values, indices = torch.topk(logits, top_k, dim=-1)
        return torch.softmax(values, dim=-1, dtype=values.dtype), indices
    scores = torch.softmax(logits, dim=-1, dtype=torch.float32)
    if family.num_groups > 1:
        best = scores.view(len(scores), family.num_groups, -1).max(dim=-1).values
        kept = torch.topk(best, family.groups_kept, dim=-1, sorted=False).indices
        mask = torch.zeros_like(best).scatter_(1, kept, 1).bool()
        scores = scores.masked_fill(~mask.repeat_interleave(scores.shape[1] // family.num_groups, 1), 0.0)
    weights, indices = torch.topk(scores, top_k, dim=-1, sorted=family.sorted_slots)
    if family.normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    weights = weights * family.scale
    return weights if family.weights_in_float32 else weights.to(logits.dtype), indices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1, 10])
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_zero_bias_changes_no_bit(family, rounded, spread, dtype):
    logits, scoring = draw(0, tokens=257)[0], FAMILIES[family]
    logits = ((logits.round() if rounded else logits) * spread).to(dtype)
    expected_weights, expected = plain(logits, 5, scoring)
    for config in (PAPER, REFERENCE, RoutingConfig(bias_space="score")):
        weights, indices = route(logits, torch.zeros(12), NONE, top_k=5, scoring=scoring, config=config)
        assert torch.equal(indices, expected)
        assert torch.equal(weights, expected_weights)
        assert weights.dtype == expected_weights.dtype
    assert not torch.equal(route(logits, lift(11, 99.0, 12), NONE, top_k=5, scoring=scoring)[1], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zero_bias_changes_no_weight_where_scores_underflow(family):
    logits, scoring = 60 * draw(0, tokens=257)[0], FAMILIES[family]
    expected = plain(logits, 5, scoring)
    ours = route(logits, torch.zeros(12), NONE, top_k=5, scoring=scoring)
    active, wanted = ([{i: w for i, w in row.items() if w > 0} for row in slots(*both)] for both in (ours, expected))
    assert active == wanted
    assert any(len(row) < 5 for row in active)
    if family != "groups":  # stock group-limited routing then takes experts of masked groups, with weight 0
        assert torch.equal(ours[1], expected[1])


# Usage.


def test_count_usage():
    indices = torch.tensor([[0, 3], [3, 1], [3, 3]])
    assert count_usage(indices, 5).tolist() == [1, 1, 0, 4, 0]
    assert count_usage(indices, 5, torch.tensor([1, 0, 1])).tolist() == [1, 0, 0, 3, 0]
    assert count_usage(indices, 5, torch.tensor([0.0, 7.0, 0.0])).tolist() == [0, 1, 0, 1, 0]
    assert count_usage(indices, 5, torch.zeros(3)).tolist() == [0] * 5
    assert count_usage(indices[:0], 5).dtype == torch.int64


def test_mass_usage():
    sixteenths = [p + q for p, q in zip(*PARTS, strict=True)]
    assert (16 * mass_usage(LOGITS)).tolist() == pytest.approx(sixteenths)
    assert (16 * mass_usage(LOGITS, torch.tensor([0, 3]))).tolist() == pytest.approx(PARTS[1])
    shares = torch.tensor([[1 / 2, 1 / 4, 1 / 8], [1 / 4, 1 / 2, 3 / 4]])  # they sum to 7/8 and to 3/2
    sigmoid = mass_usage(torch.logit(shares), scoring=Scoring(function="sigmoid"))
    assert sigmoid.tolist() == pytest.approx([4 / 7 + 1 / 6, 2 / 7 + 1 / 3, 1 / 7 + 1 / 2])
    usage = mass_usage(LOGITS.clone().requires_grad_())
    assert usage.dtype == torch.float64
    assert not usage.requires_grad


# What is refused.


def test_presets():
    fields = ("bias_space", "bias_in_weights", "budget", "usage", "bias_center", "bias_clip")
    assert [getattr(PAPER, f) for f in fields] == ["logit", False, "shared", "count", "none", None]
    assert [getattr(REFERENCE, f) for f in fields] == ["logit", True, "additive", "mass", "none", None]
    assert (PAPER.duplicates, REFERENCE.duplicates) == (False, True)
    mixed = RoutingConfig(preset="reference", duplicates=False, usage="count", num_condensers=[2, 1, 0])
    assert (mixed.budget, mixed.duplicates, mixed.usage, mixed.num_condensers) == (
        "additive",
        False,
        "count",
        (2, 1, 0),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "authors"}, "preset is one of paper, reference; got 'authors'"),
        ({"bias_space": "probability"}, "bias_space is one of logit, score; got 'probability'"),
        ({"bias_in_weights": "yes"}, "bias_in_weights is one of True, False; got 'yes'"),
        ({"budget": "double"}, "budget is one of shared, additive, recycle; got 'double'"),
        ({"duplicates": "no"}, "duplicates is one of True, False; got 'no'"),
        ({"usage": "tokens"}, "usage is one of count, mass; got 'tokens'"),
        ({"bias_center": "median"}, "bias_center is one of none, mean; got 'median'"),
        ({"bias_in_weights": True, "bias_space": "score"}, "it needs bias_space='logit'"),
        ({"duplicates": True}, "it needs budget='additive'"),
        ({"preset": "reference", "budget": "shared"}, "it needs budget='additive'"),
        ({"preset": "reference", "bias_space": "score"}, "it needs bias_space='logit'"),
        ({"bias_clip": 0.0}, "positive bound on |bias|; got 0.0"),
        ({"bias_clip": -0.5}, "positive bound on |bias|; got -0.5"),
        ({"condenser_mass": "lose"}, "condenser_mass is 'keep', or left out; got 'lose'"),
        ({"num_condensers": -1}, "num_condensers is an integer >= 0, or one per layer; got -1"),
        ({"num_condensers": [1, -1]}, "or one per layer; got (1, -1)"),
        ({"num_condensers": (1, 1.5)}, "or one per layer; got (1, 1.5)"),
    ],
)
def test_a_config_refuses(options, message):
    unchecked = inspect.unwrap(RoutingConfig.__init__)  # the type checker of the tests would refuse some of them first
    with pytest.raises(RoutingError, match=re.escape(message)):
        unchecked(object.__new__(RoutingConfig), **options)


@pytest.mark.parametrize(
    ("condensers", "config", "message"),
    [
        (ids(0, 1, 2), PAPER, "K = 3 experts per token needs R <= 2 condensers.*got R = 3.*budget='additive'"),
        (ids(0, 1, 2, 3), PAPER, "got R = 4"),
        (ids(0, 1, 2, 3, 4), ADDITIVE, "a layer of 5 experts has at most 4 condensers; got 5"),
    ],
)
def test_condensers_that_do_not_fit_are_refused(condensers, config, message):
    with pytest.raises(RoutingError, match=message):
        check_condensers(len(condensers), 5, 3, config)
    with pytest.raises(RoutingError, match=message):
        route(LOGITS, ZERO, condensers, top_k=3, config=config)


def test_condensers_that_fit():
    check_condensers(2, 5, 3, PAPER)
    check_condensers(0, 5, 1, PAPER)
    check_condensers(4, 5, 1, ADDITIVE)
    check_condensers(3, 5, 5, REFERENCE)  # a condenser may be chosen too, so that five experts fill five slots
    assert RoutingConfig(bias_clip=0.5).bias_clip == 0.5


def test_condensers_that_leave_too_few_experts_in_the_kept_groups_are_refused():
    scoring, config = Scoring(num_groups=4, groups_kept=1), RoutingConfig(budget="additive")
    check_condensers(1, 12, 2, config, scoring)
    message = r"chooses 3 experts .* only 2 are sure to be eligible \(12 experts, 1 of 4 groups, R = 1\)\. Lower R"
    with pytest.raises(RoutingError, match=message):
        check_condensers(1, 12, 3, config, scoring)
    with pytest.raises(RoutingError, match=message):
        route(draw(0)[0], torch.zeros(12), ids(4), top_k=3, scoring=scoring, config=config)
