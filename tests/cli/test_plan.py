"""`condenser plan`, and the plan's line of `train` and `check`."""

import json

import pytest

from expert_condenser.cli.main import main
from expert_condenser.testing import tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a config, and no weights."""
    path = tmp_path_factory.mktemp("model")
    tiny_config("olmoe", num_hidden_layers=1).save_pretrained(path)
    return str(path)


def words(model, *more):
    return ["plan", "--model", model, "--method", "sft", "--max_length", "64", *more]


def test_it_needs_no_weights_and_no_data(model, capsys, tmp_path):
    target = tmp_path / "plan.json"
    assert main(words(model, "--devices", "2", "--memory", "1GB", "--json", str(target))) == 0
    shown, found = capsys.readouterr().out, json.loads(target.read_text())
    assert found["devices"] == 2
    assert found["memory_per_device"] == 10**9
    assert all(f"\n{name} " in shown for name in found["engines"])
    assert f"parameters: {found['parameters']['total']:,}; " in shown
    assert "- it fits on one_process" in shown


def test_json_alone_on_stdout(model, capsys):
    assert main(words(model, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["format_version"] == 1


def test_options_of_the_recipe_and_of_a_file(model, capsys, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"model: {model}\nmethod: sft\nmax_length: 64\nlora: attention\nmax_steps: 5\ndata: nowhere.jsonl\n"
    )
    assert main(["plan", "--config", str(file), "--per-device-train-batch-size", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 5 * 2 * 64
    assert found["parameters"]["trainable"] < found["parameters"]["total"] / 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--memory", "80 apples"), "80GB"),
        (("--devices", "0"), "at least 1"),
        (("--utilisation", "2"), "at most 1"),
        (("--learning_rat", "1"), "learning_rate"),
        (("--top_p", "0.1"), "esft"),
    ],
)
def test_a_wrong_request_is_named(model, capsys, more, message):
    assert main(words(model, *more)) == 2
    assert message in capsys.readouterr().err


def test_help_names_its_flags(capsys):
    assert main(["plan", "--help"]) == 0
    assert "--price_per_hour" in capsys.readouterr().out


def recipe_words(command, tmp_path, *more):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "2 + 3?", "completion": "5"}) + "\n")
    common = ["--model", "testbed", "--method", "sft", "--data", str(tmp_path / "rows.jsonl")]
    out = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    return [command, *common, *out, "--max_length", "64", *more]


def test_check_shows_the_line(tmp_path, capsys):
    assert main(recipe_words("check", tmp_path)) == 0
    assert "\nplan: " in capsys.readouterr().out
    assert main(recipe_words("check", tmp_path, "--json")) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["engine"], plan["fits"]) == ("one_process", True)
    assert plan["total_bytes_per_device"] > 4 * 4 * 5_306_400


def test_check_warns_where_it_will_not_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("expert_condenser.planning.outline.memory_of", lambda device: 10**6)
    assert main(recipe_words("check", tmp_path, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["fits"] is False
    assert [w for w in found["warnings"] if w.startswith("this will not fit")]


def test_train_says_it_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    said = []

    def stop(recipe, callbacks=()):
        said.append(capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr("expert_condenser.training.run.train", stop)
    monkeypatch.setattr("expert_condenser.planning.outline.memory_of", lambda device: 10**6)
    assert main(recipe_words("train", tmp_path)) == 130
    flat = " ".join(said[0].split())
    assert "plan: " in flat
    assert "this will not fit" in flat


def test_a_share_of_experts_is_of_a_method_that_chooses_some(model, capsys):
    assert main(words(model, "--expert_share", "0.5")) == 2
    assert "expert_share is of a method that chooses experts on data, and sft" in capsys.readouterr().err
    assert main([*words(model, "--expert_share", "0.5"), "--method", "esft_gate"]) == 0


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [("per_device_train_batch_size", "0", "at least 1; got 0"), ("max_length", "-3", "at least 1; got -3")],
)
def test_numbers_without_meaning_are_named_as_such(model, capsys, option, value, rule):
    assert main([*words(model), f"--{option}", value]) == 2
    assert f"condenser plan: {option} is {rule}" in capsys.readouterr().err
