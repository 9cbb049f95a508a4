"""Every method on the paper's families: the same update however a step is computed."""

import pytest
import torch

from expert_condenser import METHODS, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.testing import tiny_model
from tests.finetune import BATCH, STEPS, finetune

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
TOLERANCE = 2e-6
WAYS = {
    "accumulation": {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not_reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "padding": {"pad_to_multiple_of": 16},
    "grouped_mm": {"experts": "grouped_mm"},
    "batched_mm": {"experts": "batched_mm"},
    "sorted_mm": {"experts": "sorted_mm"},
    "sorted_mm_recompute": {"experts": "sorted_mm_recompute"},
}
IMPOSSIBLE = {("sft_aux", "accumulation"), ("sft_aux", "reentrant")}
"""The auxiliary loss of a batch is no mean over its micro-batches; reentrant checkpointing is refused (below)."""


def outcome_of(folder, family, method, experts="eager", **options):
    model = tiny_model(family)
    model.set_experts_implementation(experts)
    condensers = {0: [1, 4], 1: [0, 7]} if method == "condenser" else None
    aux = {"aux_loss_coef": 0.05} if method == "sft_aux" else {}
    if method in ("smt", "router_only"):  # their gradients are a thousand times smaller than those of experts
        options = {"learning_rate": 20.0, **options}
    if options.get("gradient_checkpointing") and method.startswith(("esft", "smt", "router")):
        model.enable_input_require_grads()  # reentrant checkpointing needs an input that is part of the graph
    return finetune(folder, method, model=model, condensers=condensers, **aux, **options)


PAIRS = [(family, method) for family in FAMILIES for method in METHODS]
CASES = {
    f"{family}-{method}-{way}": ((family, method), way)
    for family, method in PAIRS
    for way in WAYS
    if (method, way) not in IMPOSSIBLE
}


@pytest.fixture(scope="module")
def reference(request, tmp_path_factory):
    return *request.param, outcome_of(tmp_path_factory.mktemp("reference"), *request.param)


@pytest.mark.parametrize("reference", PAIRS, ids="-".join, indirect=True)
def test_the_update_is_far_above_the_tolerance(reference):
    family, _, outcome = reference
    fresh = tiny_model(family)
    moved = [(w - fresh.get_parameter(n)).abs().max().item() for n, w in outcome.weights.items() if "trained_" not in n]
    assert max(moved) > 40 * TOLERANCE


@pytest.mark.parametrize(("reference", "way"), CASES.values(), ids=CASES, indirect=["reference"])
def test_the_update_is_the_same(tmp_path, reference, way):
    family, method, expected = reference
    outcome = outcome_of(tmp_path, family, method, **WAYS[way])
    assert len(outcome.usage) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(outcome.usage, expected.usage, strict=True))
    assert outcome.bias is None or torch.equal(outcome.bias, expected.bias)
    assert outcome.largest_difference(expected) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_auxiliary_loss_under_reentrant_checkpointing_is_refused_at_the_start(tmp_path, family):
    with pytest.raises(TrainingError, match=r"has no gradient in .* Reentrant gradient checkpointing has this effect"):
        outcome_of(tmp_path, family, "sft_aux", **WAYS["reentrant"])


def test_control_another_top_k_is_another_update(tmp_path):
    other = tiny_model()
    for layer in moe_layers(other):
        layer.router.top_k = 2
    control = finetune(tmp_path / "control", "sft", model=other)
    assert control.largest_difference(outcome_of(tmp_path / "same", "olmoe", "sft")) > TOLERANCE
