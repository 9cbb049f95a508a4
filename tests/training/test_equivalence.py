"""The same update however a step is computed; a control beside every equality shows that it could fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from expert_condenser import moe_layers
from expert_condenser.testing import tiny_model
from tests.finetune import BATCH, STEPS, finetune, rows

TOLERANCE = 2e-6
CONDENSERS = {0: [1, 4], 1: [0, 7], 2: [2, 3]}
OTHER_METHODS = ("frozen_router", "esft_gate", "densemixer")
"""Not `sft_aux`: the auxiliary loss of a batch is no mean over its parts."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return finetune(tmp_path_factory.mktemp("reference"), condensers=CONDENSERS)


def assert_same(outcome, reference):
    assert len(outcome.usage) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(outcome.usage, reference.usage, strict=True))
    assert torch.equal(outcome.bias, reference.bias)
    assert outcome.largest_difference(reference) < TOLERANCE


def test_training_moves_weights_and_bias_far_more_than_the_tolerance(reference):
    fresh = dict(tiny_model().named_parameters())
    moved = [(reference.weights[name] - fresh[name]).abs().max().item() for name in fresh]
    assert sorted(moved)[len(moved) // 2] > 20 * TOLERANCE
    assert reference.bias.abs().max() > 0.005


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation(tmp_path, reference, accumulation):
    outcome = finetune(
        tmp_path,
        condensers=CONDENSERS,
        per_device_train_batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    assert_same(outcome, reference)


def test_accumulation_control_other_batches_differ(tmp_path, reference):
    outcome = finetune(tmp_path, condensers=CONDENSERS, per_device_train_batch_size=BATCH // 2)
    assert not torch.equal(outcome.usage[0], reference.usage[0])
    assert outcome.largest_difference(reference) > TOLERANCE


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(tmp_path, reference, reentrant):
    outcome = finetune(
        tmp_path,
        condensers=CONDENSERS,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    assert_same(outcome, reference)


def test_gradient_checkpointing_control_a_naive_counter_counts_twice(tmp_path):
    model, naive = tiny_model(), []
    moe_layers(model)[0].router.register_forward_hook(lambda router, args, output: naive.append(output[2].numel()))
    finetune(tmp_path / "plain", model=model)
    once = sum(naive)
    naive.clear()
    model = tiny_model()
    moe_layers(model)[0].router.register_forward_hook(lambda router, args, output: naive.append(output[2].numel()))
    finetune(tmp_path / "again", model=model, gradient_checkpointing=True)
    assert sum(naive) == 2 * once


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm", "sorted_mm"])
def test_experts_implementation(tmp_path, reference, implementation):
    model = tiny_model()
    model.set_experts_implementation(implementation)
    assert_same(finetune(tmp_path, model=model, condensers=CONDENSERS), reference)


def test_padding_free_batches_count_the_same_tokens(tmp_path, reference):
    outcome = finetune(tmp_path, condensers=CONDENSERS, padding_free=True, max_length=None)
    assert_same(outcome, reference)


def test_packed_rows_count_the_same_tokens(tmp_path):
    """With a model that stands still: an epoch's usage, in eight rows of documents each or packed together."""
    still = {"bias_step": 0.0, "learning_rate": 0.0, "max_steps": -1, "num_train_epochs": 1}
    padded = finetune(tmp_path / "padded", **still)
    packed = finetune(tmp_path / "packed", packing=True, max_length=64, **still)
    assert len(packed.usage) < len(padded.usage)
    assert torch.equal(sum(packed.usage), sum(padded.usage))


def test_padding_does_not_count(tmp_path, reference):
    outcome = finetune(tmp_path, condensers=CONDENSERS, pad_to_multiple_of=16)
    assert_same(outcome, reference)
    tokens = sum(len(row) for row in rows()["input_ids"])
    assert sum(int(usage[0].sum()) for usage in reference.usage) == tokens * 3  # top-3


def test_padding_control_padded_tokens_would_change_the_counts(tmp_path, reference):
    lengths = [max(map(len, rows()["input_ids"]))] * len(rows())
    outcome = finetune(tmp_path, condensers=CONDENSERS, data=rows(lengths))
    assert not torch.equal(outcome.usage[0], reference.usage[0])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementation_leaves_the_counts(tmp_path, reference, attention):
    outcome = finetune(tmp_path, model=tiny_model(attn_implementation=attention), condensers=CONDENSERS)
    assert_same(outcome, reference)


def test_zero_gamma_and_no_condensers_is_plain_sft_exactly(tmp_path):
    plain = finetune(tmp_path / "sft", "sft", bias_step=1e-3)
    still = finetune(tmp_path / "bias", "bias_only", bias_step=0.0)
    moving = finetune(tmp_path / "control", "bias_only", bias_step=0.5)
    assert plain.largest_difference(still) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(plain.usage, still.usage, strict=True))
    assert [entry["loss"] for entry in plain.log[:-1]] == [entry["loss"] for entry in still.log[:-1]]
    assert plain.largest_difference(moving) > TOLERANCE


def test_two_processes(tmp_path, reference):
    """DDP over gloo, four rows per process, against eight rows in one."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "tests.two_processes", str(tmp_path)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for found in ranks:
        assert torch.equal(found["usage"], torch.stack(reference.usage))
        assert torch.equal(found["bias"], reference.bias)
        assert max((found["weights"][k] - v).abs().max().item() for k, v in reference.weights.items()) < TOLERANCE
    local = [found["local_usage"] for found in ranks]
    assert not torch.equal(local[0], torch.stack(reference.usage)), "one process alone sees another usage"
    assert torch.equal(local[0] + local[1], torch.stack(reference.usage))
    for method in OTHER_METHODS:
        alone = finetune(tmp_path / f"{method}-alone", method)
        for found in (rank[method] for rank in ranks):
            assert torch.equal(found["usage"], torch.stack(alone.usage))
            assert max((found["weights"][k] - v).abs().max().item() for k, v in alone.weights.items()) < TOLERANCE
