"""Expert parallelism on two processes: what is sent, measured, and the same computed; and the result stays the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from expert_condenser import RoutingConfig, attach
from expert_condenser.errors import RoutingError
from expert_condenser.functional.dispatch import bytes_sent, expected_bytes_per_token, pairs_elsewhere
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.usage import collect

CONDENSERS = {0: [1], 1: [6], 2: [3]}


def test_pairs_and_bytes():
    counts = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert pairs_elsewhere(counts).tolist() == [[0, 7], [11, 0]]
    assert pairs_elsewhere(counts, torch.tensor([True, False, False, True])).tolist() == [[0, 3], [6, 0]]
    assert bytes_sent(7, 16, 2) == 7 * 16 * 2 * 4
    with pytest.raises(RoutingError, match="cannot share 4"):
        pairs_elsewhere(torch.ones(3, 4, dtype=torch.int64))


@pytest.mark.parametrize("processes", [8, 64, 512])
def test_replicated_condensers_leave_the_share_of_the_other_experts(processes):
    plain = expected_bytes_per_token(8, 2, processes, 2048, 2, replicated=False)
    ours = expected_bytes_per_token(8, 2, processes, 2048, 2)
    assert plain == 8 * (processes - 1) / processes * 2048 * 2 * 4
    assert ours / plain == (8 - 2) / 8


@pytest.fixture(scope="module")
def dispatched(tmp_path_factory):
    """What `dispatch_worker` found in two processes."""
    pytest.importorskip("transformers.distributed.expert_parallel", reason="needs transformers 5.23")
    folder = tmp_path_factory.mktemp("dispatch")
    tiny_model().save_pretrained(folder / "model")
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program += ["-m", "tests.engines.dispatch_worker", str(folder / "model"), str(folder)]
    done = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"dispatch-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_condensers_are_sent_nowhere_and_the_rest_as_computed(dispatched):
    hidden = tiny_model().config.hidden_size
    top_k = tiny_model().config.num_experts_per_tok
    for index, condensers in CONDENSERS.items():
        for name, replicated in (("plain", False), ("ours", True)):
            counts = torch.tensor([found[name]["counts"][index] for found in dispatched])
            held = torch.zeros(counts.shape[1], dtype=torch.bool)
            held[condensers] = replicated
            elsewhere = pairs_elsewhere(counts, held)
            for rank, found in enumerate(dispatched):
                sent, tokens = found[name]["traffic"][index], (3 + rank) * 9
                assert sent["pairs_elsewhere"] == elsewhere[rank].sum()
                assert sent["bytes"] * 2 == bytes_sent(int(elsewhere[rank].sum()), hidden, 4)
                assert sent["pairs"] == tokens * (top_k - replicated), "K pairs of a token, or K - R"


@pytest.mark.slow
def test_replicated_condensers_load_no_process_more_than_its_tokens(dispatched):
    rows = {
        name: [sum(layer["rows"] for layer in found[name]["traffic"]) for found in dispatched]
        for name in ("plain", "ours")
    }
    assert sum(rows["plain"]) == sum(rows["ours"]), "every pair is computed once"
    counts = torch.tensor([found["plain"]["counts"] for found in dispatched]).sum(0)
    of_owner = counts.view(len(CONDENSERS), 2, -1).sum(-1)
    assert rows["plain"] == of_owner.sum(0).tolist()


@pytest.mark.slow
def test_loss_and_gradients_are_the_same(dispatched):
    for found in dispatched:
        assert found["plain"]["counts"] == found["ours"]["counts"]
        assert found["plain"]["loss"] == pytest.approx(found["ours"]["loss"], abs=1e-6)
        assert found["difference"] < 1e-6 < 1e-3 < found["largest"]


@pytest.mark.slow
def test_tokens_that_two_processes_share_are_counted_once(dispatched):
    model = attach(tiny_model(), RoutingConfig()).train()
    attachment_of(model).reset(detailed=True)
    model(input_ids=tiny_batch(3, 9))
    alone = collect(attachment_of(model)).counts.tolist()
    assert [found["shared"] for found in dispatched] == [alone, alone]
