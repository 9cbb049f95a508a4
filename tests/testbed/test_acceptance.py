"""The examination of a base: who the facts' experts are, what taking them out does, and each condition by itself."""

from dataclasses import replace

import pytest
import torch

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.cli.testbed import run
from expert_condenser.data.procedural.families import PRETRAINED, items
from expert_condenser.errors import UsageError
from expert_condenser.files import read_json
from expert_condenser.methods import METHODS
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.moe.usage import measure_usage
from expert_condenser.testbed.acceptance import Acceptance, conditions
from expert_condenser.testbed.specialization import answers_to, expert_shares, holders, taken_out
from expert_condenser.testing.models import tiny_batch, tiny_model

GOOD = Acceptance(
    routing={"gini": [0.3, 0.55], "dead": [0, 0], "on facts": [0.8, 0.4], "on prompts": [0.4, 0.2]},
    taken_out={
        "none": {"facts": 0.95, "gcd": 0.6, "aiw": 0.8},
        "facts' experts": {"facts": 0.1, "gcd": 0.57, "aiw": 0.77},
        "random 1": {"facts": 0.6, "gcd": 0.5, "aiw": 0.7},
    },
    tuned={
        "base": {"fact_pairs": 0.0, "worked_pairs": 0.0, "old nll": 0.4},
        "0.0001": {"fact_pairs": 0.2, "worked_pairs": 0.5, "old nll": 0.45},
        "0.0004": {"fact_pairs": 0.85, "worked_pairs": 0.9, "old nll": 1.4},
    },
)


def missed(**changes):
    return replace(GOOD, conditions=conditions(replace(GOOD, **changes))).missed


def test_a_base_that_holds_every_condition_misses_none():
    assert missed() == []
    assert len(conditions(GOOD)) == 10


@pytest.mark.parametrize(
    ("part", "entry", "value", "name"),
    [
        ("routing", "gini", [0.29, 0.5], "uneven use"),
        ("routing", "gini", [0.4, 0.56], "uneven use"),
        ("routing", "dead", [0, 1], "no dead expert"),
        ("routing", "on prompts", [0.5, 0.21], "facts' experts are not the task's"),
        ("taken_out", "none", {"facts": 0.89, "gcd": 0.6, "aiw": 0.8}, "facts are known"),
        ("taken_out", "facts' experts", {"facts": 0.15, "gcd": 0.6, "aiw": 0.8}, "facts without their experts"),
        ("taken_out", "facts' experts", {"facts": 0.1, "gcd": 0.49, "aiw": 0.8}, "other families without them"),
        ("taken_out", "random 2", {"facts": 0.1, "gcd": 0.6, "aiw": 0.8}, "random experts instead"),
        ("tuned", "base", {"fact_pairs": 0.0, "worked_pairs": 0.06, "old nll": 0.4}, "the task is new"),
        ("tuned", "0.0004", {"fact_pairs": 0.85, "worked_pairs": 0.8, "old nll": 1.4}, "the task is learnt"),
        (
            "tuned",
            "0.0004",
            {"fact_pairs": 0.9, "worked_pairs": 0.9, "old nll": 1.91},
            "forgetting has no floor and no ceiling",
        ),
    ],
)
def test_each_condition_by_itself(part, entry, value, name):
    assert missed(**{part: {**getattr(GOOD, part), entry: value}}) == [name]


def test_holders_are_the_experts_with_the_largest_excess():
    facts = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]])
    others = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.4, 0.2, 0.1, 0.3]])
    assert holders(facts, others, 2).tolist() == [[1, 2], [2, 3]]


def test_experts_that_are_taken_out_are_not_chosen_and_come_back():
    model = tiny_model("olmoe").eval()
    ids = tiny_batch()
    out = torch.tensor([[0, 1], [2, 3], [4, 5]])
    stock = model(input_ids=ids).logits
    chosen = []
    with taken_out(model, out):
        hooks = [
            layer.router.register_forward_hook(lambda router, args, output: chosen.append(output[2]))
            for layer in moe_layers(model)
        ]
        assert not torch.equal(model(input_ids=ids).logits, stock)
        for hook in hooks:
            hook.remove()
    for indices, ids_out in zip(chosen, out, strict=True):
        assert not set(indices.flatten().tolist()) & set(ids_out.tolist())
    assert torch.equal(model(input_ids=ids).logits, stock)
    with taken_out(model, out[:, :0]):
        assert torch.equal(model(input_ids=ids).logits, stock), "nothing was taken out"


def test_shares_are_of_the_selections_on_items_or_on_their_prompts():
    model, tokenizer = load_model(base_model_path()), load_tokenizer(base_model_path())
    asked = items("worked_pairs", "test", 4)
    whole, prompts = (expert_shares(model, tokenizer, asked, answers=flag) for flag in (True, False))
    assert torch.allclose(whole.sum(1), torch.ones(5, dtype=torch.float64))
    rows = [tokenizer.encode(f"<|user|>{item.question}<|end|><|assistant|>") for item in asked]
    counts = measure_usage(model, tokenizer, rows).counts.double()
    assert torch.equal(prompts, counts / counts.sum(1, keepdim=True))
    assert not torch.equal(prompts, whole)
    found = answers_to(model, tokenizer, {"aiw": items("aiw", "test", 3), "worked_pairs": asked})
    assert (found["aiw"].accuracy, found["worked_pairs"].accuracy) == (1.0, 0.0)
    assert [len(answers.nll) for answers in found.values()] == [3, 4]


@pytest.mark.slow
def test_the_first_base_is_refused_since_it_knows_no_facts(tmp_path, capsys):
    words = ["accept", "--model", "testbed-v1", "--output_dir", str(tmp_path), "--limit", "5"]
    run([*words, "--experts", "6", "--rows", "24", "--learning_rates", "1e-4"])
    assert "facts are known" in capsys.readouterr().out.split("missed:")[1]
    written = read_json(tmp_path / "accept.json")
    assert list(written["tuned"]) == ["base", "0.0001"]
    assert len(written["taken_out"]["none"]) == 1 + len(PRETRAINED)
    facts = read_json(tmp_path / "condensers.json")["layers"]
    config = METHODS["condenser"].Config(
        condenser_rule="explicit", condensers_file=str(tmp_path / "condensers.json"), one_phase=True
    )
    model = load_model(base_model_path("testbed-v1"))
    METHODS["condenser"](config, "condense").prepare(model)
    assert condensers_of(model) == {entry["layer"]: entry["condensers"] for entry in facts}
    assert [len(entry["condensers"]) for entry in facts] == [2] * 5
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "tuned models are not kept"


@pytest.mark.parametrize("grid", ["2e-4,1e-4", "0,1e-4", "1e-4,1e-4", "many"])
def test_a_grid_is_positive_and_ascending(grid, tmp_path):
    with pytest.raises(UsageError):
        run(["accept", "--model", "testbed", "--output_dir", str(tmp_path), "--learning_rates", grid])
