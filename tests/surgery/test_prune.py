"""`condenser prune` from a directory to a directory: what it leaves loads as before, and says where it comes from."""

import json

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import TrainingError
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.moe.without_experts import without_experts
from expert_condenser.surgery.prune import left_of, prune
from expert_condenser.surgery.questions import compared
from expert_condenser.testbed.tokenizer import VOCABULARY_SIZE
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.run import train
from tests.runs import config, make_base

IDS = tiny_batch()
ALL = {"family": "olmoe", "num_experts": 8, "num_layers": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base):
    """The base with a bias and a condenser per layer, as a training leaves it."""
    model = attach(tiny_model(vocab_size=VOCABULARY_SIZE), RoutingConfig())
    set_condensers(model, {0: [1], 1: [4], 2: [7]})
    for at, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.linspace(-0.3, 0.3, 8).roll(at))
    (base / "tuned").mkdir()
    make_base(base / "tuned")
    model.save_pretrained(base / "tuned" / "model")
    (base / "tuned" / "model" / "provenance.json").write_text(json.dumps({"method": "condenser"}))
    return base / "tuned"


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def listed(path, *entries, **head):
    path.write_text("".join(json.dumps({**head, "layer": layer, "expert": e}) + "\n" for layer, e in entries))
    return path


def run(folder, base, *words):
    return main(["prune", "--model", str(base / "model"), "--output_dir", str(folder), *map(str, words)])


def test_a_tuned_model_keeps_its_routing_and_its_type(tuned, tmp_path):
    removed = {0: [0, 5], 1: [6, 7], 2: [2, 3]}
    prune(str(tuned / "model"), removed, tmp_path / "small", {"criterion": "by hand"})
    whole, small = load_model(tuned / "model"), load_model(tmp_path / "small")
    with without_experts(whole, removed, rescale=True):
        torch.testing.assert_close(logits_of(small), logits_of(whole), atol=2e-6, rtol=1e-5)
    assert (logits_of(small) - logits_of(whole)).abs().max() > 1e-4, "control: the whole model"
    assert type(small) is type(whole)
    assert condensers_of(small) == {0: [0], 1: [4], 2: [5]}
    assert torch.equal(selection_biases(small), left_of(selection_biases(whole), removed))
    found = json.loads((tmp_path / "small" / "provenance.json").read_text())
    assert found["method"] == "condenser", "what it was before"
    assert found["pruned"] == {
        "model": str(tuned / "model"),
        "num_experts": 8,
        "num_experts_left": 6,
        "removed": {"0": [0, 5], "1": [6, 7], "2": [2, 3]},
        "criterion": "by hand",
    }
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["model_type"], config["num_experts"]) == ("condenser_olmoe", 6)
    assert (tmp_path / "small" / "expert_condenser_model.py").exists()


def test_the_command_by_usage_and_healing(tuned, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"data": str(tuned / "rows.jsonl"), "max_length": 64, "bf16": False, "use_cpu": True}))
    words = ("--keep", 6, "--by", "usage", "--data", tuned / "rows.jsonl", "--limit", 8)
    status = run(tmp_path / "out", tuned, *words, "--heal", 2, "--heal_config", recipe)
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "does not renormalise" in out
    found = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert [version["name"] for version in found["versions"]] == ["before", "after", "healed"]
    assert [version["num_experts"] for version in found["versions"]] == [8, 6, 6]
    before, after, healed = found["versions"]
    assert before["nll_rise"] == 0.0
    assert after["nll"] != before["nll"]
    assert healed["nll"] != after["nll"]
    assert before["parameters"] - after["parameters"] == 3 * 2 * (3 * 32 * 24 + 32)
    assert not {1} & set(found["removed"]["0"]) | {4} & set(found["removed"]["1"]) | {7} & set(found["removed"]["2"])
    assert all(0 < layer["choices"] < 1 and layer["factor_median"] > 1 for layer in found["routing"])
    pruned, tuned_more = load_model(tmp_path / "out" / "model"), load_model(tmp_path / "out" / "healed" / "model")
    assert condensers_of(tuned_more) == condensers_of(pruned)
    assert torch.equal(selection_biases(tuned_more), selection_biases(pruned)), "they stay as they are"
    lines = [json.loads(line) for line in (tmp_path / "out" / "experts.jsonl").read_text().splitlines()]
    assert len(lines) == 18
    assert {line["num_experts"] for line in lines} == {6}
    assert run(tmp_path / "more", tmp_path / "out", "--keep", 5, "--list", tmp_path / "out" / "experts.jsonl") == 0
    assert moe_layers(load_model(tmp_path / "more" / "model"))[0].num_experts == 5


def test_tasks_are_asked_before_and_after(base, tmp_path, capsys):
    words = ("--by", "weight_norm", "--keep", 5, "--limit", 6, "--evaluate", "testbed:facts, testbed:spell_backward")
    assert run(tmp_path / "out", base, *words) == 0
    out = capsys.readouterr().out
    assert "asked before and after" in out
    assert "the effect on the routing is not known" in out
    before, after = (
        version["tasks"] for version in json.loads((tmp_path / "out" / "pruning.json").read_text())["versions"]
    )
    assert list(before) == list(after) == ["testbed:facts", "testbed:spell_backward"]
    for task in before:
        assert before[task]["nll_rise"] == 0.0
        assert after[task]["items"] == 6
        assert after[task]["nll_rise"] == after[task]["nll"] - before[task]["nll"] != 0.0
        assert after[task]["accuracy_change"] == after[task]["accuracy"] - before[task]["accuracy"]
    for name, source, found in (("after", tmp_path / "out", after), ("before", base, before)):
        asked = ["--tasks", "testbed:facts", "--mode", "teacher_forced", "--limit", "6", "--device", "cpu"]
        assert main(["eval", "--model", str(source / "model"), *asked, "--output_dir", str(tmp_path / name)]) == 0
        alone = json.loads((tmp_path / name / "results.json").read_text())["tasks"]["testbed:facts"]
        assert found["testbed:facts"]["nll"] == pytest.approx(alone["nll"], abs=1e-6), "as `condenser eval` says"
        kept = json.loads((tmp_path / "out" / "evaluation" / name / "results.json").read_text())
        assert kept["tasks"]["testbed:facts"]["questions"] == alone["questions"]
        assert str(tmp_path) not in json.dumps(kept), "no path of the folder while it was being made"


def test_a_change_of_accuracy_is_paired_over_questions():
    before = {"n": 4, "accuracy": 0.75, "nll": None, "correct_items": "1110"}
    after = {"n": 4, "accuracy": 0.5, "nll": 1.0, "correct_items": "1001"}
    found = compared({"task": after}, {"task": before})["task"]
    assert (found["accuracy_change"], found["nll_rise"]) == (-0.25, None)
    low, high = found["accuracy_change_interval"]
    assert low == -1.0
    assert high == 0.5
    assert compared({"task": before}, {"task": before})["task"]["accuracy_change_interval"] == [0.0, 0.0], "control"


def test_an_adapter_and_a_family_that_cannot_are_named_before_weights_are_read(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    assert run(tmp_path / "out", tmp_path, "--by", "weight_norm", "--keep", 6) == 2
    assert "is an adapter: name its run, or the run's model/" in " ".join(capsys.readouterr().err.split())
    tiny_model("deepseek_v4").config.save_pretrained(tmp_path / "v4" / "model")
    assert run(tmp_path / "out", tmp_path / "v4", "--by", "weight_norm", "--keep", 6) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "deepseek_v4 cannot have fewer experts: its first layers have a table" in error


def test_experts_that_are_named(base, tmp_path):
    file = listed(tmp_path / "gone.jsonl", (0, 1), (1, 2), (2, 7), **ALL)
    assert run(tmp_path / "out", base, "--list", file) == 0
    found = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert found["removed"] == {"0": [1], "1": [2], "2": [7]}
    assert "nll" not in found["versions"][0]
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["model_type"] == "olmoe"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "usage", "--keep", 6], "name some with --data"),
        (["--by", "usge", "--keep", 6, "--data", "rows"], "did you mean 'usage'"),
        (["--keep", 6], "removed by a criterion"),
        (["--by", "weight_norm"], "--keep N or --remove N"),
        (["--by", "weight_norm", "--keep", 6, "--remove", 2], "give one of them"),
        (["--by", "weight_norm", "--keep", 2], "1 to 5 of them can be removed; got 6"),
        (["--by", "weight_norm", "--keep", 8], "got 0"),
        (["--by", "weight_norm", "--keep", 6, "--heal", 2], "--heal tunes on --data"),
        (["--by", "weight_norm", "--keep", 6, "--device", "nowhere"], "a device of this machine"),
        (["--by", "bias", "--keep", 6], "kept by a learnt bias"),
        (["--list", "nowhere.jsonl"], "there is no nowhere.jsonl"),
        (["--usage", "nowhere.json", "--keep", 6], "there is none"),
        (["--by", "reap", "--usage", "nowhere.json", "--keep", 6], "rank --by usage"),
        (["--by", "weight_norm", "--keep", 6, "--evaluate", "gsm9k"], "a task is one of"),
        (["--by", "weight_norm", "--keep", 6, "--evaluate", " , "], "--evaluate names tasks"),
        (["--by", "weight_norm", "--keep", 6, "--evaluate_mode", "likelihood"], "name some"),
        (["--by", "weight_norm", "--keep", 6, "--evaluate_data", "."], "name some"),
        (
            ["--by", "weight_norm", "--keep", 6, "--evaluate", "testbed:facts", "--evaluate_mode", "likelihood"],
            "options",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_left(base, tmp_path, capsys, words, message):
    assert run(tmp_path / "out", base, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "head", "message"),
    [
        ([(0, 1), (1, 1), (2, 1)], {"family": "mixtral"}, "another model (family mixtral)"),
        ([(0, 1), (1, 1), (2, 1)], {"num_experts": 64}, "another model (num_experts 64)"),
        ([(0, 1), (1, 1), (3, 1)], {}, "MoE layers 0 to 2; got layer 3"),
        ([(0, 1), (1, 1)], {}, "the same number of experts"),
        ([(0, 0), (1, 4), (2, 0)], {}, "condensers are never removed"),
        ([], {}, "it is empty"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tuned, tmp_path, capsys, entries, head, message):
    file = listed(tmp_path / "list.jsonl", *entries, **head)
    assert run(tmp_path / "out", tuned, "--list", file) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]


def test_a_list_says_who_goes_or_a_number_does(base, tmp_path, capsys):
    named = listed(tmp_path / "gone.jsonl", (0, 1), (1, 2), (2, 7))
    assert run(tmp_path / "out", base, "--list", named, "--keep", 7) == 2
    assert "says who is removed: leave --keep" in capsys.readouterr().err.replace("\n", " ")
    scored = [{**ALL, "criterion": "reap", "layer": at, "expert": e, "score": e} for at in range(3) for e in range(8)]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
    assert run(tmp_path / "out", base, "--list", tmp_path / "ranked.jsonl") == 2
    assert "ranks experts: give --keep" in capsys.readouterr().err.replace("\n", " ")
    assert run(tmp_path / "out", base, "--list", tmp_path / "ranked.jsonl", "--keep", 6) == 0
    assert json.loads((tmp_path / "out" / "pruning.json").read_text())["removed"] == {
        str(at): [0, 1] for at in range(3)
    }


def test_a_folder_that_is_there_stays(base, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert run(tmp_path / "mine", base, "--by", "weight_norm", "--keep", 6) == 2
    assert "not there yet" in capsys.readouterr().err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_only_a_pruned_model_with_routing_trains_on_and_only_by_sft(tuned, tmp_path):
    prune(str(tuned / "model"), {at: [at] for at in range(3)}, tmp_path / "model")
    for source, method in ((tuned, "sft"), (tmp_path, "condenser")):
        recipe = config(tuned, tmp_path / "run", model=str(source / "model"), method=method, max_steps=2)
        with pytest.raises(TrainingError, match="a run starts from a base model"):
            train(recipe)
    assert not (tmp_path / "run").exists()


def test_a_folder_below_a_file_is_refused(base, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "out", base, "--by", "weight_norm", "--keep", 6) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_interrupted_one_leaves_nothing(base, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("expert_condenser.surgery.pruning.prune", interrupted)
    assert run(tmp_path / "out", base, "--by", "weight_norm", "--keep", 6) == 130
    assert list(tmp_path.iterdir()) == []
