"""The base with a long tail: what its routers are taught, and that it trains."""

import json
import math

import pytest
import torch

from expert_condenser.checkpoint.load import load_model
from expert_condenser.data.procedural.families import frequencies
from expert_condenser.testbed.long_tail import (
    TAIL,
    TAIL_EXPERTS,
    LongTailConfig,
    dissociation,
    routing_loss,
    tail_frequencies,
    tail_usage,
    train_long_tail,
)

EXPERTS = 24


def test_the_tail_gets_its_share_and_the_rest_keeps_its_proportions():
    shares, old = tail_frequencies(0.1), frequencies()
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(shares[name] for name in TAIL) == pytest.approx(0.1)
    assert shares["chain_sum"] / shares["syllogism"] == pytest.approx(old["chain_sum"] / old["syllogism"])
    assert shares[TAIL[0]] / shares[TAIL[1]] == pytest.approx(old[TAIL[0]] / old[TAIL[1]])


def test_the_routing_loss_is_the_nll_of_the_right_group():
    uniform = torch.zeros(3, EXPERTS)
    in_tail = torch.tensor([True, False, False])
    expected = -(math.log(TAIL_EXPERTS / EXPERTS) + 2 * math.log(1 - TAIL_EXPERTS / EXPERTS)) / 3
    assert routing_loss([uniform, uniform], in_tail).item() == pytest.approx(expected)
    right = torch.full((3, EXPERTS), -30.0)
    right[0, -1] = right[1, 0] = right[2, 3] = 30.0
    assert routing_loss([right], in_tail).item() == pytest.approx(0, abs=1e-6)
    assert routing_loss([right], ~in_tail).item() > 50


@pytest.mark.slow
def test_it_trains_and_its_experts_can_be_taken_out(tmp_path):
    recipe = LongTailConfig(steps=2, rows=2, row_length=64, log_every=1)
    moves = []
    path = train_long_tail(tmp_path, recipe, moves.append)
    assert moves == [1, 1]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2]
    assert load_model(path).config.output_router_logits is False
    found = dissociation(path, ["aiw", "spell_backward"], 5)
    assert list(found) == ["whole", "without tail", "without others"]
    assert found["whole"]["aiw"] >= 0.6  # two steps away from the embedded base
    assert found["whole"] != found["without others"]
    usage = tail_usage(path, 0.12, documents=5)
    assert len(usage) == 5
    assert all(0 < share < 1 for share in usage)
