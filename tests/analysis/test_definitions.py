"""Every figure on a model that was made by hand, where its value is known; beside it, what breaks it."""

import copy

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.analysis.ablation import ablate, variant_of
from expert_condenser.analysis.correlation import correlation_of
from expert_condenser.analysis.divergence import divergence_of
from expert_condenser.analysis.expert_scores import random_scores, score_experts
from expert_condenser.analysis.gradients import gradient_flow, slope_within
from expert_condenser.analysis.pruning import Plan, against_control, experts_to_remove, prune_curves
from expert_condenser.analysis.quality import quality_of
from expert_condenser.analysis.skipping import skip_curves
from expert_condenser.analysis.super_experts import extreme, super_experts
from expert_condenser.analysis.usage import usage_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.testing import tiny_model
from tests.analysis.rows import copy_expert, equal_experts, rows, two_kinds_of_tokens
from tests.finetune import tokenizer


def test_usage_is_what_the_routers_chose(recorded_routing):
    model, data = tiny_model(), rows()
    usage = usage_of("tiny", model, tokenizer(), data, batch_size=4)
    counts = torch.zeros(3, 8, dtype=torch.int64)
    with recorded_routing(model) as calls, torch.no_grad():
        for row in data:
            model(input_ids=torch.tensor([row.ids]))
    for layer, _, _, indices in calls:
        counts[layer] += indices.flatten().bincount(minlength=8)
    assert torch.equal(usage.counts, counts)
    assert usage.rates.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert (usage.tails.diff(dim=1) <= 0).all()
    assert torch.equal(usage.rates.sort(1).values, usage.tails.flip(1))
    assert not torch.equal(usage.counts, usage_of("other", model, tokenizer(), rows(seed=1)).counts), "control"


def test_counting_takes_one_forward_of_the_decoder_and_none_of_the_head():
    model, calls = tiny_model(), []
    for name in ("model", "lm_head"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    advanced = []
    usage_of("tiny", model, tokenizer(), rows(), batch_size=4, advance=advanced.append)
    assert calls == ["model", "model"]
    assert advanced == [4, 2]


def test_a_layer_that_was_left_alone_diverges_by_0_and_one_of_doubled_outputs_by_1():
    base, tuned = tiny_model(), tiny_model()
    with torch.no_grad():
        moe_layers(tuned)[1].experts.down_proj *= 2
    found = divergence_of("doubled", base, tuned, rows())
    assert found.relative.tolist() == pytest.approx([0, 1, 0])
    assert found.changed_choice.tolist() == [0, 0, 0]
    with torch.no_grad():
        moe_layers(tuned)[2].router.weight.neg_()
    changed = divergence_of("rerouted", base, tuned, rows())
    assert changed.relative[0] == 0
    assert changed.relative[2] > 0.1
    assert changed.changed_choice[2] == 1


def test_divergence_weighs_tokens_by_their_norms_and_not_padding():
    base, tuned = tiny_model(), tiny_model(seed=1)
    together = divergence_of("x", base, tuned, rows(), batch_size=6)
    apart = divergence_of("x", base, tuned, rows(), batch_size=1)
    torch.testing.assert_close(together.relative, apart.relative, atol=1e-5, rtol=1e-5)


def test_a_copy_of_an_expert_correlates_by_1_whatever_its_scale():
    model = tiny_model()
    copy_expert(model, 1, 0, 3)
    copy_expert(model, 1, 0, 4, scale=5.0)
    copy_expert(model, 1, 0, 5, scale=-1.0)
    found = correlation_of("copies", model, rows(), tokens=40)
    assert found.matrix[1, 0, [0, 3, 4, 5]].tolist() == pytest.approx([1, 1, 1, -1])
    assert found.matrix[0, 0, 3].abs() < 0.5, "control: in another layer they are no copies"
    assert torch.allclose(found.matrix, found.matrix.transpose(1, 2))


def test_the_correlation_of_condensers_is_with_those_that_are_none():
    model = tiny_model()
    for target in (3, 4):
        copy_expert(model, 1, 0, target)
    found = correlation_of("copies", model, rows(), tokens=40)
    others = [1, 2, 3, 4, 5, 6, 7]
    assert found.mean_of({1: [0]})[1] == pytest.approx(found.matrix[1, 0, others].mean().item())
    assert found.mean_of({1: [0, 3, 4]})[1] == pytest.approx(
        found.matrix[1, 0, [1, 2, 5, 6, 7]].mean().item(), abs=1e-6
    )
    assert found.mean_of({1: [0]})[[0, 2]].isnan().all()


def test_scores_are_their_formulas(recorded_routing):
    model, data = tiny_model(), rows()
    scores = score_experts(model, data, ["activation", "gate_mass", "weight_norm", "reap"], tokens=10_000)
    layer = moe_layers(model)[1]
    usage = usage_of("tiny", model, tokenizer(), data)
    assert torch.equal(scores["activation"], usage.counts.double())
    torch.testing.assert_close(scores["gate_mass"], usage.gate_mass, atol=1e-6, rtol=1e-6)
    squares = sum(p.double().pow(2).flatten(1).sum(1) for p in layer.experts.parameters())
    torch.testing.assert_close(scores["weight_norm"][1], squares.sqrt(), atol=1e-6, rtol=1e-6)
    reap, mean_weight = scores["reap"][1], scores["gate_mass"][1] / scores["activation"][1].clamp(min=1)
    with torch.no_grad():
        layer.experts.down_proj[2] *= 3
    again = score_experts(model, data, ["reap"], tokens=10_000)["reap"][1]
    torch.testing.assert_close(again[2], 3 * reap[2])
    torch.testing.assert_close(again[[0, 1]], reap[[0, 1]])
    assert (reap[usage.counts[1] == 0] == 0).all()
    assert not torch.allclose(reap, mean_weight), "the size of the output is in it"


def test_reconstruction_is_nothing_for_an_expert_that_no_token_chose():
    model = two_kinds_of_tokens()
    data = [Tokens([5, 9, 5, 9], [(2, 4)])]
    scores = score_experts(model, data, ["activation", "reconstruction"])
    assert scores["activation"].tolist() == [[2, 2, 0, 0, 0, 0, 0, 0]]
    assert (scores["reconstruction"][0, 2:] == 0).all()
    assert (scores["reconstruction"][0, :2] > 1e-9).all()


def test_a_bias_that_was_not_learnt_ranks_nobody():
    with pytest.raises(AnalysisError, match="kept by a learnt bias"):
        score_experts(tiny_model(), rows(), ["bias"])
    model = attach(tiny_model(), RoutingConfig())
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.arange(8.0))
    assert score_experts(model, rows(), ["bias"])["bias"][2].tolist() == list(range(8))


def test_equal_experts_lose_nothing_by_pruning():
    """Where the weights sum to one; where they do not, the scale of the layer changes unless the rest is rescaled."""
    plan = Plan([4, 3], draws=2, ways=[False, True])
    for model, loses in ((equal_experts("olmoe_normalized"), False), (tiny_model("olmoe_normalized"), True)):
        scores = score_experts(model, rows(), ["activation"])
        whole, prunes = prune_curves(model, rows(), scores, plan)
        assert len(prunes) == 2 * 2 * (1 + 2) * 2
        rises = [abs(prune.quality.rise_over(whole)[0]) for prune in prunes]
        assert (max(rises) < 1e-5) != loses
    unnormalized = equal_experts("olmoe")
    whole, prunes = prune_curves(unnormalized, rows(), score_experts(unnormalized, rows(), ["activation"]), plan)
    assert max(abs(prune.quality.rise_over(whole)[0]) for prune in prunes) > 1e-4, "control: every weight is scaled"


def test_who_is_removed():
    scores = torch.tensor([[5.0, 1, 4, 2], [9, 9, 8, 7]], dtype=torch.float64)
    assert experts_to_remove(scores, 2, "layer", [1, 1]) == {0: [1, 3], 1: [3, 2]}
    assert experts_to_remove(scores, 2, "global", [1, 1]) == {0: [1, 3, 2], 1: [3]}
    assert experts_to_remove(scores, 2, "global", [2, 2]) == {0: [1, 3], 1: [3, 2]}
    assert experts_to_remove(scores, 4, "layer", [2, 2]) == {0: [], 1: []}
    for kept in (1, 5):
        with pytest.raises(AnalysisError, match=f"2 to 4 here; got {kept}"):
            experts_to_remove(scores, kept, "layer", [2, 2])


def test_a_control_loses_as_many_experts_of_every_layer_and_other_ones():
    scores = {"x": random_scores((3, 8), 7)}
    plan = Plan([5], draws=3)
    cuts = list(plan.cuts(scores, [3, 3, 3]))
    sizes = {
        name: [len(ids) for ids in cut[-1].values()] for *_, name, cut in ((*c[:5], c[1] + str(c[3]), c) for c in cuts)
    }
    assert sizes["layer0"] == sizes["layerNone"] == [3, 3, 3]
    assert sizes["global0"] == sizes["global2"] == sizes["globalNone"]
    draws = [cut[-1] for cut in cuts if cut[3] is not None and cut[1] == "layer"]
    assert len(draws) == 3
    assert draws[0] != draws[1]


def test_pruned_models_stand_beside_their_draws():
    model = tiny_model()
    scores = score_experts(model, rows(), ["activation", "weight_norm"])
    _, prunes = prune_curves(model, rows(), scores, Plan([4], draws=3, ways=[False]))
    found = against_control(prunes)
    asked = [(scope, name) for scope in ("layer", "global") for name in ("activation", "weight_norm")]
    assert [(x.prune.scope, x.prune.criterion) for x in found] == asked
    assert [x.draws for x in found] == [3] * 4
    assert all(x.control_low <= x.control_mean <= x.control_high for x in found)
    size = sum(p[0].numel() for p in moe_layers(model)[0].experts.parameters())
    assert {prune.parameters for prune in prunes} == {3 * 4 * size}


def test_skipping_nothing_is_the_model_and_skipping_more_uses_fewer_experts():
    model = tiny_model()
    whole = quality_of(model, rows())
    few, many = skip_curves(model, rows(), [0.0, 0.8], ways=[False])
    assert few.experts_per_token == 3
    assert few.quality.nll_per_token == pytest.approx(whole.nll_per_token, abs=1e-7)
    assert many.experts_per_token == pytest.approx(1 + 2 * 0.2, abs=0.05)
    assert abs(many.quality.nll_per_token - whole.nll_per_token) > 1e-5
    assert quality_of(model, rows()).nll_per_token == whole.nll_per_token, "afterwards nothing is skipped"


def test_demoted_condensers_are_experts_like_others():
    model = attach(tiny_model(), RoutingConfig())
    before = quality_of(model, rows())
    set_condensers(model, {0: [1], 1: [5], 2: [2]})
    on = quality_of(model, rows())
    found = ablate("tuned", model, rows())
    assert found["on"].nll_per_token == on.nll_per_token != before.nll_per_token
    assert found["demoted"].nll_per_token == before.nll_per_token
    values = {name: quality.nll_per_token for name, quality in found.items()}
    assert len(set(values.values())) == 4
    assert quality_of(model, rows()).nll_per_token == on.nll_per_token, "afterwards they are on"
    with pytest.raises(AnalysisError, match="stock has none"):
        ablate("stock", tiny_model(), rows())


def test_restored_mass_is_that_of_the_models_own_choice(recorded_routing):
    model = attach(tiny_model(), RoutingConfig())
    set_condensers(model, {0: [1], 1: [5], 2: [2]})
    sums = {}
    for variant in ("demoted", "on", "restored"):
        with variant_of("tuned", model, variant), recorded_routing(model) as calls, torch.no_grad():
            model(input_ids=torch.tensor([rows()[0].ids]))
        sums[variant] = calls[0][2].sum(-1)
    torch.testing.assert_close(sums["restored"], sums["demoted"])
    assert not torch.allclose(sums["on"], sums["demoted"])


def test_an_expert_that_a_tenth_of_the_tokens_choose_is_updated_a_tenth_as_often():
    model = two_kinds_of_tokens()
    state = copy.deepcopy(model.state_dict())
    data = [Tokens([9, 9] if at == 3 else [5, 5], [(1, 2)]) for at in range(10)]
    flow = gradient_flow("two", model, data, batch_size=1, rates={"sgd": 1e-4, "adamw": 1e-6})
    assert flow.steps == 10
    assert flow.usage[0, :3].tolist() == pytest.approx([0.9, 0.1, 0])
    assert flow.frequency[0, :3].tolist() == pytest.approx([0.9, 0.1, 0])
    assert (flow.moved["sgd"][0, 2:] == 0).all()
    together = gradient_flow("two", model, data, batch_size=5)
    assert together.frequency[0, :2].tolist() == [1.0, 0.5], "control: more tokens per step, other frequencies"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items()), "nothing has moved"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_sgd_adds_gradients_up_and_adam_divides_by_their_size():
    """One gradient a step, the same to first order: SGD moves an expert by rate x steps x mean gradient."""
    model = two_kinds_of_tokens()
    data = [Tokens([9, 9] if at == 0 else [5, 5], [(1, 2)]) for at in range(10)]
    flow = gradient_flow("two", model, data, batch_size=1, rates={"sgd": 1e-4, "adamw": 1e-6})
    expected = 1e-4 * 10 * flow.gradient[0, :2]
    torch.testing.assert_close(flow.moved["sgd"][0, :2], expected, rtol=0.02, atol=0)
    assert flow.slope("sgd") - flow.slope("adamw") > 0.3


def test_the_slope_is_that_of_a_power_law_within_layers():
    usage = random_scores((4, 9), 1) + 0.01
    level = torch.tensor([[1.0], [10.0], [0.1], [3.0]], dtype=torch.float64)
    assert slope_within(usage, level * usage**0.7) == pytest.approx(0.7)
    with_a_dead_one = usage.clone()
    with_a_dead_one[1, 3] = 0
    assert slope_within(with_a_dead_one, level * usage**0.7) == pytest.approx(0.7)
    assert slope_within(usage, random_scores((4, 9), 2)) != pytest.approx(0.7, abs=0.2), "control"


def test_a_planted_super_weight_is_found_where_it_is():
    model, data = tiny_model(), rows()
    used = usage_of("tiny", model, tokenizer(), data).counts[1].argmax().item()
    clean = super_experts("clean", model, data)
    assert (1, used) not in clean.found
    experts = moe_layers(model)[1].experts
    with torch.no_grad():
        experts.down_proj[used, 7, 4] = 1e4
    found = super_experts("planted", model, data)
    assert found.found == [(1, used)]
    weight = found.weights[1, used]
    assert (weight.parameter, weight.place) == ("down_proj", (used, 7, 4))
    assert weight.value == 1e4
    assert weight.share == pytest.approx(1, abs=1e-3)
    assert found.followed == {}
    changed = tiny_model()
    with torch.no_grad():
        moe_layers(changed)[1].experts.down_proj[used, 7, 4] = 5.0
        moe_layers(changed)[1].experts.down_proj[used, 9, 1] = 1e4
    followed = super_experts("changed", changed, data, follow=found.weights)
    assert followed.followed == {(1, used): 5.0}, "the weight that was super in the base, where it was"
    assert followed.weights[1, used].place == (used, 9, 1), "control: another one makes the largest output now"


def test_extreme_is_above_the_percentile_and_a_tenth_of_the_largest():
    largest = torch.ones(10, 100, dtype=torch.float64)
    assert extreme(largest) == []
    largest[2, 3], largest[4, 5], largest[0, 1] = 100, 50, 9
    assert extreme(largest) == [(2, 3), (4, 5)], "9 is less than a tenth of 100"
