"""`sft_aux`: which coefficient, what is added to the loss and taken off `nll`, and that it reaches every router."""

import copy
import json
import math

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from expert_condenser import METHODS, MethodCallback, MethodConfig, moe_layers
from expert_condenser.errors import TrainingError, UnsupportedModelError
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.auxiliary import check_auxiliary_gradient
from expert_condenser.training.trainer import StrictSFTTrainer
from tests.finetune import PLAIN, finetune, rows, tokenizer

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
COEFFICIENT = 0.05
LENGTHS = [5 + (7 * index) % 9 for index in range(8)]
"""Of one batch of documents: a step has all of them, in whatever order."""
every_family = pytest.mark.parametrize("family", FAMILIES)


def prepared(model, **options):
    method = METHODS["sft_aux"](MethodConfig(**options))
    method.prepare(model)
    return method


# The coefficient.


def test_the_coefficient_is_the_option_or_the_model_s_own():
    own = tiny_model(router_aux_loss_coef=0.02)
    assert prepared(own).router_aux_loss_coef == 0.02
    assert prepared(tiny_model(router_aux_loss_coef=0.02), aux_loss_coef=0.3).router_aux_loss_coef == 0.3
    assert prepared(tiny_model("deepseek_v2"), aux_loss_coef=0.3).router_aux_loss_coef == 0.3
    assert METHODS["sft_aux"].router_aux_loss_coef == METHODS["sft"]().router_aux_loss_coef == 0.0


@pytest.mark.parametrize(("family", "options"), [("deepseek_v2", {}), ("olmoe", {"router_aux_loss_coef": 0.0})])
def test_a_model_without_a_coefficient_needs_the_option(family, options):
    model = tiny_model(family, **options)
    with pytest.raises(TrainingError, match=rf"{family} has none of its own \(.*: 0.0\). Set aux_loss_coef"):
        prepared(model)


@pytest.mark.parametrize("coefficient", [0.0, -0.1, math.nan, math.inf])
def test_a_coefficient_is_above_zero(coefficient):
    with pytest.raises(TrainingError, match=r"aux_loss_coef is a number above 0 \('sft' is without the loss\); got"):
        METHODS["sft_aux"](MethodConfig(aux_loss_coef=coefficient))


def test_frozen_routers_would_learn_nothing_from_it():
    with pytest.raises(TrainingError, match="acts on the routers, and none of them trains"):
        prepared(tiny_model(), router="freeze", aux_loss_coef=0.1)


def test_a_model_that_returns_no_router_logits_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"aria_text does not \(no output_router_logits in its config\)"):
        prepared(tiny_model("aria_text"), aux_loss_coef=0.1)


# The loss and its parts.


def switch_loss(model, recorded_routing, batch=None):
    """`E sum_i f_i P_i` in plain Python: selections and mean softmax over the tokens of all layers together.

    Every document runs alone, so that there is no padding which could count.
    """
    chosen, mass, tokens = [0] * 8, [0.0] * 8, 0
    for row in (batch or rows(LENGTHS))["input_ids"]:
        with recorded_routing(model) as calls, torch.no_grad():
            model(input_ids=torch.tensor([row]))
        for _, logits, _, indices in calls:
            for z, ids in zip(logits.tolist(), indices.tolist(), strict=True):
                powers = [math.exp(value - max(z)) for value in z]
                tokens += 1
                for expert in range(8):
                    chosen[expert] += expert in ids
                    mass[expert] += powers[expert] / sum(powers)
    assert tokens == sum(map(len, (batch or rows(LENGTHS))["input_ids"])) * len(moe_layers(model))
    return 8 * sum(n / tokens * p / tokens for n, p in zip(chosen, mass, strict=True))


def first_step(folder, method, family, **options):
    """One step on all eight documents, without clipping."""
    coefficient = {"aux_loss_coef": COEFFICIENT} if method == "sft_aux" else {}
    options = {"max_steps": 1, "max_grad_norm": 0.0, "data": rows(LENGTHS), **coefficient, **options}
    return finetune(folder, method, model=tiny_model(family), **options)


@pytest.fixture(scope="module", params=FAMILIES)
def steps(request, tmp_path_factory):
    """Of one family: the step with the auxiliary loss, and that without."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *(first_step(folder / method, method, request.param) for method in ("sft_aux", "sft"))


def test_the_logged_loss_is_nll_and_the_weighed_auxiliary_loss(steps, recorded_routing):
    family, (found, *_), (plain, *_) = steps[0], steps[1].log, steps[2].log
    assert plain["nll"] == plain["loss"]
    assert "aux_loss" not in plain
    assert found["nll"] == pytest.approx(plain["loss"], rel=1e-6)
    assert found["nll"] == found["loss"] - COEFFICIENT * found["aux_loss"]
    assert found["loss"] - plain["loss"] == pytest.approx(COEFFICIENT * found["aux_loss"], rel=1e-4)
    assert found["aux_loss"] > 2.5, "balanced, it would be K = 3"
    assert found["aux_loss"] == pytest.approx(switch_loss(tiny_model(family), recorded_routing), rel=1e-5)


def test_with_accumulation_nll_is_the_same_and_the_auxiliary_loss_the_mean_of_the_parts(steps, tmp_path):
    family, whole, plain = steps[0], steps[1].log[0], steps[2].log[0]
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    found = first_step(tmp_path, "sft_aux", family, **options).log[0]
    assert found["nll"] == pytest.approx(plain["loss"], rel=1e-6)
    assert found["loss"] == pytest.approx(plain["loss"] + COEFFICIENT * found["aux_loss"], rel=1e-6)
    assert found["aux_loss"] != pytest.approx(whole["aux_loss"], rel=1e-4), "of a batch it is no mean of its parts"


def evaluated(folder, method, family, accumulation=1, trainer_class=SFTTrainer, batch=2):
    """The log entry of an evaluation on six documents in three batches, after a step that changed nothing."""
    model = tiny_model(family)
    coefficient = {"aux_loss_coef": COEFFICIENT} if method == "sft_aux" else {}
    made = METHODS[method](MethodConfig(**coefficient))
    made.prepare(model)
    options = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 1,
        "learning_rate": 0.0,
        "router_aux_loss_coef": made.router_aux_loss_coef,
    }
    trainer = trainer_class(
        model=model,
        args=SFTConfig(output_dir=str(folder), **PLAIN, **options),
        train_dataset=rows(LENGTHS),
        eval_dataset=rows(LENGTHS[:6]),
        processing_class=tokenizer(),
        callbacks=[MethodCallback(made)],
    )
    trainer.train()
    trainer.evaluate()
    return trainer.state.log_history[-1]


def test_eval_nll_is_the_eval_loss_without_the_auxiliary_loss(tmp_path, recorded_routing):
    """In evaluation TRL adds the whole auxiliary loss, however many micro-batches a training step has."""
    plain = evaluated(tmp_path / "sft", "sft", "olmoe")
    assert plain["eval_nll"] == plain["eval_loss"]
    parts = [rows(LENGTHS[:6]).select(range(start, start + 2)) for start in (0, 2, 4)]
    by_hand = [switch_loss(tiny_model(), recorded_routing, part) for part in parts]
    for accumulation in (1, 2):
        found = evaluated(tmp_path / str(accumulation), "sft_aux", "olmoe", accumulation)
        assert found["eval_nll"] == pytest.approx(plain["eval_loss"], rel=1e-6)
        assert found["eval_loss"] - plain["eval_loss"] == pytest.approx(COEFFICIENT * found["eval_aux_loss"], rel=1e-4)
        assert found["eval_aux_loss"] == pytest.approx(sum(by_hand) / 3, rel=1e-5)


def test_a_run_evaluates_the_nll_alone_also_on_a_ragged_last_batch(tmp_path):
    plain = evaluated(tmp_path / "sft", "sft", "olmoe", batch=4)
    run = evaluated(tmp_path / "run", "sft_aux", "olmoe", trainer_class=StrictSFTTrainer, batch=4)
    control = evaluated(tmp_path / "trl", "sft_aux", "olmoe", batch=4)
    assert run["eval_nll"] == run["eval_loss"] == plain["eval_loss"]
    assert control["eval_loss"] > plain["eval_loss"]


@pytest.mark.parametrize(("method", "coefficient"), [("sft", None), ("sft", 0.01), ("sft_aux", None), ("sft_aux", 0.0)])
def test_a_trainer_that_weighs_the_auxiliary_loss_otherwise_is_refused(tmp_path, method, coefficient):
    with pytest.raises(TrainingError, match=r"the method weighs the auxiliary loss by .*, and this trainer by"):
        finetune(tmp_path, method, router_aux_loss_coef=coefficient, aux_loss_coef=0.05 if "aux" in method else None)


# What it trains.


def test_routers_learn_something_else_than_in_plain_fine_tuning(steps):
    """The last layer's experts and the head come after every router: they learn the same."""
    family, found, plain = steps
    layers = moe_layers(tiny_model(family))
    for layer in layers:
        difference = (found.weights[f"{layer.name}.weight"] - plain.weights[f"{layer.name}.weight"]).abs().max()
        assert difference > 1e-6
    after = [key for key in found.weights if key.startswith(f"{layers[-1].block}.experts.")]
    for key in [*after, "lm_head.weight"]:
        assert torch.equal(found.weights[key], plain.weights[key])
    assert len(after) >= 2


def test_the_auxiliary_loss_evens_out_the_use_of_experts(tmp_path):
    """With a coefficient that drowns the nll."""
    outcomes = {
        method: finetune(
            tmp_path / method, method, data=rows(LENGTHS), max_steps=12, learning_rate=0.3, **coefficient
        ).usage
        for method, coefficient in (("sft", {}), ("sft_aux", {"aux_loss_coef": 5.0}))
    }
    spread = {method: usage[-1].double().std(dim=1).sum().item() for method, usage in outcomes.items()}
    assert torch.equal(outcomes["sft"][0], outcomes["sft_aux"][0])
    assert spread["sft_aux"] < 0.8 * spread["sft"]


# The check at the start of a run.


def checkpointed(family, reentrant):
    """A prepared model; `reentrant` None is without checkpointing."""
    model = tiny_model(family)
    method = prepared(model, aux_loss_coef=COEFFICIENT)
    if reentrant is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return method, model


@every_family
@pytest.mark.parametrize("reentrant", [None, False])
def test_the_check_passes(family, reentrant):
    method, model = checkpointed(family, reentrant)
    check_auxiliary_gradient(model, method.layers)


@every_family
def test_the_check_finds_reentrant_checkpointing(family):
    method, model = checkpointed(family, True)
    count = len(method.layers)
    with pytest.raises(TrainingError, match=rf"no gradient in {count} of {count} \(.*Reentrant gradient checkpointing"):
        check_auxiliary_gradient(model, method.layers)


@every_family
@pytest.mark.parametrize("reentrant", [None, False])
def test_the_check_finds_frozen_routers(family, reentrant):
    method, model = checkpointed(family, reentrant)
    layers, last = method.layers, method.layers[-1]
    last.router.requires_grad_(False)
    with pytest.raises(TrainingError, match=rf"no gradient in 1 of {len(layers)} \({last.name}, \.\.\.\)"):
        check_auxiliary_gradient(model, layers)
    for layer in layers:
        layer.router.requires_grad_(False)
    with pytest.raises(TrainingError, match=rf"no gradient in {len(layers)} of {len(layers)} \({layers[0].name}"):
        check_auxiliary_gradient(model, layers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reentrant", [None, False])
def test_the_check_leaves_no_trace(training, reentrant):
    method, model = checkpointed("olmoe", reentrant)
    ids = tiny_batch(2, 5)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    model.lm_head.weight.grad = None
    model.train(training)
    before = {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    usage = [layer.router.counter.counts.clone() for layer in method.layers]
    state, config = torch.get_rng_state(), copy.deepcopy(model.config.to_dict())
    check_auxiliary_gradient(model, method.layers)
    assert torch.equal(torch.get_rng_state(), state)
    after = [layer.router.counter.counts for layer in method.layers]
    assert all(torch.equal(a, b) for a, b in zip(usage, after, strict=True))
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert json.dumps(model.config.to_dict(), default=str) == json.dumps(config, default=str)
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (before[key] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, before[key])
    assert before["lm_head.weight"] is None
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_the_random_numbers_behind_the_check_are_those_without_it():
    """With dropout, so that the check itself draws some."""
    model = tiny_model(attention_dropout=0.5)
    method = prepared(model, aux_loss_coef=COEFFICIENT)
    drawn = []
    for check in (True, False):
        torch.manual_seed(5)
        if check:
            check_auxiliary_gradient(model, method.layers)
        drawn.append(torch.rand(7))
    assert torch.equal(*drawn)
    torch.manual_seed(5)
    model.train()(input_ids=tiny_batch(2, 5))
    assert not torch.equal(torch.rand(7), drawn[0]), "control: a forward in training mode draws"
