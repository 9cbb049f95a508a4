"""The families' formulas by hand and in plain Python: what is chosen by, what is weighed with, DenseMixer's weights."""

import math
import struct

import pytest
import torch
from torch.autograd.functional import jacobian

from expert_condenser.functional.routing import RoutingConfig, choose_experts, group_ranks, route
from expert_condenser.functional.scoring import (
    Scoring,
    expert_scores,
    gate_weights,
    group_mask,
    mixture_weights,
    native_ranks,
)

NONE = torch.zeros(0, dtype=torch.int64)
ODDS = [[3, 1, 1 / 3, 1 / 7, 1 / 15], [1 / 7, 3, 1 / 15, 1, 1 / 3]]
"""Of the sigmoid scores; as odds they are 3/4, 1/2, 1/4, 1/8, 1/16."""
LOGITS = torch.tensor(ODDS, dtype=torch.float64).log()
CHOSEN = torch.tensor([[0, 1, 3], [1, 4, 2]])


def weights_of(scoring, logits=LOGITS, indices=CHOSEN):
    return gate_weights(logits, indices, scoring).flatten().tolist()


def draw(seed, tokens=7, experts=5, top_k=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=generator, dtype=torch.float64)
    chosen = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)])
    return logits, chosen


def bfloat16(value):
    """The nearest bfloat16, ties to even, in plain Python."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits += 0x7FFF + (bits >> 16 & 1)
    return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]


# Scores.


def test_sigmoid():
    scores = expert_scores(LOGITS, Scoring(function="sigmoid"))
    assert scores.dtype == torch.float32
    assert scores[0].tolist() == pytest.approx([3 / 4, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert scores[1].tolist() == pytest.approx([1 / 8, 3 / 4, 1 / 16, 1 / 2, 1 / 4])
    assert scores[0].tolist() != pytest.approx(expert_scores(LOGITS)[0].tolist())


def test_sqrtsoftplus():
    """softplus(log(e^(k^2) - 1)) = k^2."""
    roots = [2.0, 1.0, 0.5, 0.25, 3.0]
    logits = torch.tensor([[math.log(math.expm1(root**2)) for root in roots]], dtype=torch.float64)
    scores = expert_scores(logits, Scoring(function="sqrtsoftplus", float32=False))
    assert scores[0].tolist() == pytest.approx(roots, rel=1e-12)
    chosen = torch.tensor([[4, 1, 0]])
    scoring = Scoring(function="sqrtsoftplus", float32=False, normalize=True, scale=1.5)
    assert weights_of(scoring, logits, chosen) == pytest.approx([1.5 * 3 / 6, 1.5 * 1 / 6, 1.5 * 2 / 6], rel=1e-12)


def test_softmax_is_over_all_experts_and_topk_softmax_over_the_chosen():
    logits = torch.tensor([[8, 4, 2, 1, 1]], dtype=torch.float64).log()
    chosen = torch.tensor([[2, 0, 4]])
    assert weights_of(Scoring(), logits, chosen) == pytest.approx([2 / 16, 8 / 16, 1 / 16])
    assert weights_of(Scoring(function="topk_softmax"), logits, chosen) == pytest.approx([2 / 11, 8 / 11, 1 / 11])
    assert expert_scores(logits, Scoring(function="topk_softmax"))[0].tolist() == pytest.approx(
        [8 / 16, 4 / 16, 2 / 16, 1 / 16, 1 / 16]
    ), "before the choice"


@pytest.mark.parametrize("function", ["sigmoid", "topk_sigmoid"])
def test_sigmoids_weigh_alike_and_normalise_over_the_chosen(function):
    plain, normal = Scoring(function=function), Scoring(function=function, normalize=True, scale=2.5)
    assert weights_of(plain) == pytest.approx([3 / 4, 1 / 2, 1 / 8, 3 / 4, 1 / 4, 1 / 16])
    assert weights_of(Scoring(function=function, scale=2.0)) == pytest.approx([3 / 2, 1, 1 / 4, 3 / 2, 1 / 2, 1 / 8])
    first, second = [12 / 22, 8 / 22, 2 / 22], [12 / 17, 4 / 17, 1 / 17]
    assert weights_of(normal) == pytest.approx([2.5 * weight for weight in first + second])


def test_sum_epsilon_is_added_and_sum_minimum_raises():
    """The chosen scores sum to 11/8 and 17/16."""
    added = Scoring(function="sigmoid", normalize=True, sum_epsilon=1 / 16)
    assert weights_of(added) == pytest.approx([12 / 23, 8 / 23, 2 / 23, 12 / 18, 4 / 18, 1 / 18])
    raised = Scoring(function="sigmoid", normalize=True, sum_minimum=5 / 4)
    assert weights_of(raised) == pytest.approx([12 / 22, 8 / 22, 2 / 22, 12 / 20, 4 / 20, 1 / 20])
    both = Scoring(function="sigmoid", normalize=True, sum_epsilon=1 / 16, sum_minimum=5 / 4)
    assert weights_of(both) == pytest.approx([12 / 23, 8 / 23, 2 / 23, 12 / 20, 4 / 20, 1 / 20])
    idle = Scoring(function="sigmoid", sum_epsilon=1 / 16, sum_minimum=5 / 4)
    assert weights_of(idle) == weights_of(Scoring(function="sigmoid")), "of families that normalise"


# Dtypes.


def test_scores_in_bfloat16_and_in_float32_of_bfloat16_logits():
    logits = torch.tensor([[1.0, 0.5, -2.0]], dtype=torch.bfloat16)
    exact = [1 / (1 + math.exp(-z)) for z in (1.0, 0.5, -2.0)]
    narrow = expert_scores(logits, Scoring(function="sigmoid", float32=False))
    wide = expert_scores(logits, Scoring(function="sigmoid"))
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert narrow[0].tolist() == [bfloat16(score) for score in exact]
    assert wide[0].tolist() == pytest.approx(exact, rel=1e-6)
    assert narrow[0].tolist() != pytest.approx(exact, rel=1e-6)


def test_weights_are_rounded_at_every_step_in_bfloat16_and_once_in_float32():
    logits, chosen = torch.tensor([[1.0, 0.5, -2.0, 0.75]], dtype=torch.bfloat16), torch.tensor([[3, 0, 2]])
    exact = [1 / (1 + math.exp(-z)) for z in (0.75, 1.0, -2.0)]
    rounded = [bfloat16(score) for score in exact]
    total = bfloat16(sum(rounded))
    stepwise = [bfloat16(bfloat16(score / total) * 2.5) for score in rounded]
    once = [bfloat16(2.5 * score / sum(exact)) for score in exact]
    options = {"function": "sigmoid", "normalize": True, "scale": 2.5}
    assert gate_weights(logits, chosen, Scoring(**options, float32=False))[0].tolist() == stepwise
    assert gate_weights(logits, chosen, Scoring(**options))[0].tolist() == once
    assert stepwise != once
    kept = gate_weights(logits, chosen, Scoring(**options, weights_in_float32=True))
    assert kept.dtype == torch.float32
    assert kept[0].tolist() == pytest.approx([2.5 * score / sum(exact) for score in exact], rel=1e-6)
    assert gate_weights(logits, chosen, Scoring(**options)).dtype == torch.bfloat16


# What the families choose by.


def test_a_native_correction_chooses_and_does_not_weigh():
    correction = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    for function, own in (("sigmoid", [3 / 4, 1 / 2, 1 / 4, 1 / 8, 1 / 16]), ("topk_sigmoid", LOGITS[0].tolist())):
        scoring = Scoring(function=function, normalize=True)
        ranks = native_ranks(LOGITS, scoring, correction)
        assert ranks.dtype == torch.float32
        assert ranks[0].tolist() == pytest.approx([*own[:4], own[4] + 1.0])
        assert native_ranks(LOGITS, scoring)[0].tolist() == pytest.approx(own)
        weights, indices = route(LOGITS[:1], torch.zeros(5), NONE, top_k=2, scoring=scoring, correction=correction)
        if function == "sigmoid":
            assert indices.tolist() == [[4, 0]], "1/16 + 1 and 3/4"
            assert weights[0].tolist() == pytest.approx([1 / 13, 12 / 13])
        assert route(LOGITS[:1], torch.zeros(5), NONE, top_k=2, scoring=scoring)[1].tolist() == [[0, 1]]


def test_topk_families_choose_by_logits():
    """With a correction it matters: sigmoids lie closer together than logits."""
    correction = torch.tensor([0.0, 0.0, 0.0, 1.2, 0.0])
    by_scores, by_logits = Scoring(function="sigmoid"), Scoring(function="topk_sigmoid")
    assert not by_scores.chooses_by_logits
    assert by_logits.chooses_by_logits
    assert Scoring(function="topk_softmax").chooses_by_logits
    zero = torch.zeros(5)
    chosen = [
        choose_experts(LOGITS[:1], zero, NONE, top_k=2, scoring=scoring, correction=correction)[0].tolist()
        for scoring in (by_scores, by_logits)
    ]
    assert chosen == [[3, 0], [0, 1]], "1/8 + 1.2 leads the scores, log(1/7) + 1.2 = -0.75 does not lead the logits"


# Group-limited routing.


def kept(ranks, **options):
    mask = group_mask(torch.tensor(ranks), Scoring(**options))
    return [[i for i, inside in enumerate(row) if inside] for row in mask.tolist()]


def test_groups_by_the_best_and_by_the_two_best():
    ranks = [[5.0, 0.0, 1.0, 3.0, 3.0, 2.0, 0.0, 1.0, 2.5], [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.5, 0.0, 1.0]]
    assert kept(ranks, num_groups=3, groups_kept=1) == [[0, 1, 2], [6, 7, 8]]
    two = {"num_groups": 3, "group_rank": "best_two"}
    assert kept(ranks, **two, groups_kept=1) == [[0, 1, 2], [3, 4, 5]], "5+1, 3+3, 2.5+1 and 0, 3+2, 3.5+1"
    assert kept(ranks, **two, groups_kept=2) == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]


def test_an_expert_of_rank_minus_infinity_lifts_no_group_and_sinks_none():
    """Condensers are excluded by that rank: what is left of their group is ranked by the one other expert."""
    inf = math.inf
    two = {"num_groups": 3, "group_rank": "best_two"}
    ranks = [[4.0, -inf, 1.5, 1.0, 0.5, 0.25]]
    assert kept(ranks, **two, groups_kept=1) == [[0, 1]], "4, 1.5+1, 0.5+0.25"
    ranks = [[2.0, -inf, 1.5, 1.0, 0.5, 0.25]]
    assert kept(ranks, **two, groups_kept=1) == [[2, 3]], "2 + nothing, 1.5+1, 0.5+0.25"
    ranks = [[-4.0, -inf, -1.5, -1.0, -0.5, -0.25]]
    assert kept(ranks, **two, groups_kept=2) == [[2, 3, 4, 5]], "-4, -2.5, -0.75"
    ranks = [[-inf, -inf, -1.5, -1.0, -0.5, -0.25]]
    assert kept(ranks, **two, groups_kept=2) == [[2, 3, 4, 5]], "a group without any expert comes last, not as 0"
    assert kept([[-inf, -inf, 1.0, 1.5]], num_groups=2, groups_kept=1, group_rank="best") == [[2, 3]]
    ranks = [[-inf] * 6]
    assert len(kept(ranks, **two, groups_kept=2)[0]) == 4, "where none has an expert, still that many are kept"


@pytest.mark.parametrize("space", ["logit", "score"])
def test_groups_of_two_best_are_ranked_by_scores_where_a_bias_is_on_logits(space):
    """9 - 4 is above 2 + 2, and as scores 1.00 + 0.02 is below 0.88 + 0.88."""
    scoring = Scoring(function="sigmoid", num_groups=2, groups_kept=1, group_rank="best_two")
    config, bias = RoutingConfig(bias_space=space), torch.tensor([0.0, 0.0, 0.0, 0.5])
    ranks = torch.tensor([[9.0, -4.0, 2.0, 2.0], [3.0, 2.5, 2.0, 2.0]])
    found = group_ranks(ranks, bias, scoring, config)
    assert torch.equal(found, torch.sigmoid(ranks) if space == "logit" else ranks)
    chosen = kept(found.tolist(), num_groups=2, groups_kept=1, group_rank="best_two")
    assert chosen == [[2, 3] if space == "logit" else [0, 1], [0, 1]]
    assert torch.equal(group_ranks(ranks, torch.zeros(4), scoring, config), ranks), "without bias, the family's own"
    assert torch.equal(group_ranks(ranks, bias, Scoring(num_groups=2, groups_kept=1), config), ranks), "by the best"
    assert torch.equal(group_ranks(ranks, bias, scoring, config, torch.full((4,), 0.25)), ranks), "its own space"


def test_a_bias_chooses_the_groups_too():
    """Two groups, one is kept: by scores 1.00 + 0.02 is below 0.88 + 0.92, though 9 is the largest logit."""
    scoring = Scoring(function="sigmoid", num_groups=2, groups_kept=1, group_rank="best_two")
    logits, bias = torch.tensor([[9.0, -4.0, 2.0, 2.0]]), torch.tensor([0.0, 0.0, 0.0, 0.5])
    assert choose_experts(logits, bias, NONE, top_k=2, scoring=scoring).tolist() == [[3, 2]]
    assert choose_experts(logits, bias, NONE, top_k=2, scoring=Scoring(function="sigmoid")).tolist() == [[0, 3]]


def test_groups_of_a_family_with_a_correction_are_ranked_in_its_own_space():
    """Ranks 3.0 + 0.0 and 1.4 + 1.41; their sigmoids would be ordered the other way round."""
    scoring = Scoring(function="sigmoid", num_groups=2, groups_kept=1, group_rank="best_two")
    logits = torch.logit(torch.tensor([[0.9, 0.5, 0.8, 0.8]]))
    correction, bias = torch.tensor([2.1, -0.5, 0.6, 0.6]), torch.tensor([0.0, 0.0, 0.0, 0.01])
    options = {"top_k": 2, "scoring": scoring}
    assert choose_experts(logits, bias, NONE, **options, correction=correction).tolist() == [[0, 1]]
    more = correction + torch.tensor([0.0, 0.0, 0.1, 0.1])
    assert choose_experts(logits, bias, NONE, **options, correction=more).tolist() == [[3, 2]]


def test_appended_condensers_take_no_other_slot_of_their_group():
    logits, condenser = torch.tensor([[5.0, 4.0, 3.0, 0.0, 1.0, 2.0]]), torch.tensor([0])
    scoring = Scoring(num_groups=2, groups_kept=1)
    for duplicates, expected in ((False, [1, 2, 0]), (True, [0, 1, 0])):
        config = RoutingConfig(budget="additive", duplicates=duplicates)
        found = choose_experts(logits, torch.zeros(6), condenser, top_k=2, scoring=scoring, config=config)
        assert found.tolist() == [expected]


# A selection bias beside the family's own correction.


@pytest.mark.parametrize("space", ["logit", "score"])
def test_a_bias_is_added_to_score_and_correction_whatever_its_space(space):
    """Ranks s + b + beta: 0.75, 0.5, 0.25, 0.125 + 0.5, 0.0625 + 0.6 + 0.35."""
    scoring, config = Scoring(function="sigmoid"), RoutingConfig(bias_space=space)
    correction, bias = torch.tensor([0, 0, 0, 0.5, 0.6]), torch.tensor([0, 0, 0, 0, 0.35])

    def chosen(**options):
        weights, indices = route(LOGITS[:1], options.pop("bias", bias), NONE, top_k=3, scoring=scoring, **options)
        return indices[0].tolist(), weights[0].tolist()

    indices, weights = chosen(config=config, correction=correction)
    assert indices == [4, 0, 3]
    assert weights == pytest.approx([1 / 16, 3 / 4, 1 / 8]), "neither of them weighs"
    assert chosen(config=config, correction=correction, bias=torch.zeros(5))[0] == [0, 4, 3]
    without = chosen(config=config)[0]
    assert without == ([0, 1, 2] if space == "logit" else [0, 1, 4]), "control: without a correction the space matters"


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "sqrtsoftplus", "topk_sigmoid"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_zero_bias_is_the_family_s_own_choice(function, groups):
    """Twelve experts, top-5, against a second implementation in plain Python."""
    rank = {"group_rank": "best_two", "num_groups": groups, "groups_kept": groups // 2 or 1}
    scoring = Scoring(function=function, float32=False, **rank)
    logits, _ = draw(3, tokens=9, experts=12)
    correction = torch.linspace(-0.4, 0.4, 12, dtype=torch.float64)[torch.randperm(12, generator=torch.manual_seed(1))]
    score = {
        "sigmoid": lambda row: [1 / (1 + math.exp(-z)) for z in row],
        "softmax": lambda row: [math.exp(z) / sum(map(math.exp, row)) for z in row],
        "sqrtsoftplus": lambda row: [math.sqrt(math.log1p(math.exp(z))) for z in row],
        "topk_sigmoid": list,
    }[function]
    expected, uncorrected = [], []
    for row in logits.tolist():
        for target, native in ((expected, correction.tolist()), (uncorrected, [0.0] * 12)):
            ranks = [s + b for s, b in zip(score(row), native, strict=True)]
            size = 12 // groups
            parts = [sorted(range(g * size, g * size + size), key=lambda i: -ranks[i]) for g in range(groups)]
            parts.sort(key=lambda ids: -sum(ranks[i] for i in ids[:2]))
            eligible = [i for ids in parts[: scoring.groups_kept] for i in ids]
            target.append(sorted(eligible, key=lambda i: -ranks[i])[:5])
    zero = torch.zeros(12)
    found = choose_experts(logits, zero, NONE, top_k=5, scoring=scoring, correction=correction.float())
    assert found.tolist() == expected
    assert expected != uncorrected
    moved = choose_experts(logits, zero + torch.eye(12)[2] * 9, NONE, top_k=5, scoring=scoring, correction=correction)
    assert moved.tolist() != expected


# DenseMixer's weights, section 6 of docs/method.md.

MIXED = {
    "softmax": Scoring(float32=False),
    "softmax_scaled": Scoring(float32=False, scale=1.5),
    "softmax_normalized": Scoring(float32=False, normalize=True, scale=2.5),
    "topk_softmax": Scoring(function="topk_softmax", float32=False),
    "sigmoid": Scoring(function="sigmoid", float32=False),
    "sigmoid_normalized": Scoring(function="sigmoid", float32=False, normalize=True, sum_epsilon=0.25, scale=1.5),
    "sigmoid_raised": Scoring(function="sigmoid", float32=False, normalize=True, sum_minimum=3.0),
    "sigmoid_not_raised": Scoring(function="sigmoid", float32=False, normalize=True, sum_minimum=0.01),
    "topk_sigmoid": Scoring(function="topk_sigmoid", float32=False, normalize=True),
}


def plain_scores(z, function):
    if "softmax" in function:
        return [math.exp(value) / sum(map(math.exp, z)) for value in z]
    return [1 / (1 + math.exp(-value)) for value in z]


def plain_mixture(z, chosen, scoring):
    """`q` of one token: `s_i * scale`, over `n` where the family normalises."""
    scores = plain_scores(z, scoring.function)
    n = max(sum(scores[i] for i in chosen) + scoring.sum_epsilon, scoring.sum_minimum)
    return [scoring.scale * s / (n if _normalizes(scoring) else 1.0) for s in scores]


def _normalizes(scoring):
    return scoring.normalize or scoring.function == "topk_softmax"


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mixture_weights_are_the_gate_weights_where_chosen_bit_for_bit(name, dtype):
    logits, chosen = draw(0)
    in_float32 = [{"float32": True, "weights_in_float32": kept} for kept in (False, True)]
    for scoring in (MIXED[name], *(Scoring(**{**vars(MIXED[name]), **options}) for options in in_float32)):
        weights = mixture_weights(logits.to(dtype), chosen, scoring)
        gates = gate_weights(logits.to(dtype), chosen, scoring)
        assert weights.shape == logits.shape
        assert weights.dtype == gates.dtype
        assert torch.equal(weights.gather(-1, chosen), gates)
        assert not torch.equal(weights.gather(-1, (chosen + 1) % 5), gates)


@pytest.mark.parametrize("name", MIXED)
def test_mixture_weights_of_all_experts(name):
    logits, chosen = draw(1)
    weights = mixture_weights(logits, chosen, MIXED[name])
    rows = zip(logits.tolist(), chosen.tolist(), strict=True)
    expected = [plain_mixture(z, ids, MIXED[name]) for z, ids in rows]
    assert weights.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]
    assert (weights > 0).all()


@pytest.mark.parametrize("name", MIXED)
def test_the_sum_is_a_constant_for_the_others_and_not_for_the_chosen(name):
    """`dq_i/dz_j` of one token, written out: with `n` for the chosen experts, without it for the others."""
    scoring, (logits, chosen) = MIXED[name], draw(2, tokens=1)
    found = jacobian(lambda z: mixture_weights(z, chosen, scoring), logits)[0, :, 0]
    own, ids = plain_scores(logits[0].tolist(), scoring.function), chosen[0].tolist()
    softmax = "softmax" in scoring.function

    def ds(i, j):
        if softmax:
            return own[i] * ((i == j) - own[j])
        return own[i] * (1 - own[i]) * (i == j)

    total = sum(own[i] for i in ids) + scoring.sum_epsilon
    raised = scoring.sum_minimum > total
    n = (scoring.sum_minimum if raised else total) if _normalizes(scoring) else 1.0

    def dq(i, j, through_n):
        moves = through_n and _normalizes(scoring) and not raised
        dn = sum(ds(k, j) for k in ids) if moves else 0.0
        return scoring.scale * (ds(i, j) / n - own[i] * dn / n**2)

    def table(through_n):
        return torch.tensor([[dq(i, j, through_n(i)) for j in range(5)] for i in range(5)], dtype=torch.float64)

    expected = table(lambda i: i in ids)
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    if _normalizes(scoring) and not raised:
        assert not torch.allclose(found, table(lambda i: True), rtol=0, atol=1e-4), "control: n moves for the others"
        assert not torch.allclose(found, table(lambda i: False), rtol=0, atol=1e-4), "control: n is constant for all"
    else:
        assert torch.equal(expected, table(lambda i: True)), "without n there is nothing to hold constant"
