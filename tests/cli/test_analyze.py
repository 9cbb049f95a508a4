"""`condenser analyze`: numbers, tensors and figures on the disk; bad requests end before any work."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from expert_condenser.analysis.pruning import parameters_per_expert
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.analyses import session as analysis_session
from expert_condenser.cli.main import main
from tests.runs import config, make_base, read, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("base"))
    train(config(base, base / "run"))
    return base


@pytest.fixture
def analyze(finished, tmp_path, monkeypatch):
    """Runs an analysis of the base and its tuned version; returns the content of its JSON."""
    loads = []
    monkeypatch.setattr(
        analysis_session, "load", lambda *args, own=analysis_session.load: loads.append(args) or own(*args)
    )

    def run(name, *words, data=True):
        given = ["--data", str(finished / "rows.jsonl"), "--split", "train", "--limit", "4"] if data else []
        assert main(["analyze", name, "--output_dir", str(tmp_path / "out"), *given, *map(str, words)]) == 0
        for ending in ("json", "svg", "png"):
            assert (tmp_path / "out" / f"{name}.{ending}").stat().st_size > 100
        return {**read(tmp_path / "out" / f"{name}.json"), "loads": len(loads)}

    return run


def models(finished):
    return ["--model", f"base={finished / 'model'}", "--tuned", finished / "run"]


def test_usage_and_overlap(analyze, finished, tmp_path, capsys):
    found = analyze("usage", *models(finished))
    assert [model["name"] for model in found["models"]] == ["base", "condenser"]
    assert found["loads"] == 2
    assert capsys.readouterr().out.endswith(f"result: {tmp_path / 'out' / 'usage.json'}\n")
    tensors = load_file(tmp_path / "out" / "usage.safetensors")
    assert tensors["counts.base"].sum(1).tolist() == tensors["counts.condenser"].sum(1).tolist()
    assert found["command"].startswith("condenser analyze usage --output_dir")
    files = [str(path) for path in sorted((tmp_path / "out" / "usage").glob("*.json"))]
    pairs = analyze("overlap", "--usage", *files, data=False)["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("base", "condenser")]
    assert 0 < min(pairs[0]["common"]) < 1


def test_one_model_on_two_tasks(analyze, finished, tmp_path):
    (tmp_path / "more.jsonl").write_text("".join((finished / "rows.jsonl").read_text().splitlines(keepends=True)[:3]))
    words = ["--data", finished / "rows.jsonl", tmp_path / "more.jsonl", "--split", "train"]
    found = analyze("overlap", "--model", f"base={finished / 'model'}", *words, data=False)
    assert [pair["second"] for pair in found["pairs"]] == [f"base, {tmp_path / 'more.jsonl'}"]
    assert found["loads"] == 1


def test_divergence_and_correlation(analyze, finished):
    found = analyze("divergence", *models(finished))["models"]
    assert [model["name"] for model in found] == ["condenser"]
    assert 0 < min(found[0]["relative"]) < max(found[0]["relative"]) < 10, found
    models_ = analyze("correlation", *models(finished), "--tokens", 32)["models"]
    assert [None not in model["condensers"] for model in models_] == [True, True], "those of the tuned, in the base too"


def test_ablation_gradients_and_super(analyze, finished, tmp_path):
    found = analyze("ablation", "--model", finished / "run")["models"]["condenser"]
    assert list(found) == ["on", "demoted", "removed", "restored"]
    assert found["on"]["nll_rise"] == 0
    slopes = analyze("gradients", "--model", finished / "model", "--batch_size", 2)["slopes"]
    assert slopes["sgd"] > slopes["adamw"]
    assert load_file(tmp_path / "out" / "gradients.safetensors")["moved.sgd"].shape == (3, 8)
    assert [x["name"] for x in analyze("super", *models(finished), "--tokens", 32)["models"]] == ["base", "condenser"]


def test_dynamics_needs_no_model(analyze, finished):
    found = analyze("dynamics", "--runs", f"a={finished / 'run'}", f"b={finished / 'run'}", data=False)
    assert [run["steps"] for run in found["runs"]] == [list(range(1, 9))] * 2
    assert found["loads"] == 0


def test_prune_loads_once_and_its_list_prunes_the_tuned_model(analyze, finished, tmp_path):
    options = ["--keep", "5", "--draws", 2, "--skip"]
    found = analyze("prune", "--model", finished / "model", "--criteria", "activation,reap", *options)
    assert found["loads"] == 1
    rows = found["prunes"]
    kinds = {(row["criterion"], row["scope"], row["rescale"]) for row in rows}
    assert len(kinds) == 3 * 2 * 2
    size = parameters_per_expert(load_model(finished / "model"))
    assert {row["parameters_removed"] for row in rows} == {3 * 3 * size}
    assert len(found["skipping"]) == 5 * 2
    shutil.copy(tmp_path / "out" / "experts.jsonl", tmp_path / "base.jsonl")
    tuned = analyze("prune", "--model", finished / "run", "--experts", tmp_path / "base.jsonl", *options[:4])
    removed = [
        next(row["removed"] for row in each["prunes"] if row["criterion"] == "reap" and row["scope"] == "layer")
        for each in (found, tuned)
    ]
    assert removed[0] == removed[1]
    assert tuned["whole"]["nll"] < found["whole"]["nll"]


def test_bad_requests_end_before_any_work(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_session, "load", None)
    other = tmp_path / "experts.jsonl"
    entry = {
        "family": "mixtral",
        "num_experts": 8,
        "num_layers": 3,
        "criterion": "x",
        "layer": 0,
        "expert": 0,
        "score": 1,
    }
    other.write_text(json.dumps(entry))
    counted = finished / "run" / "sparsify" / "usage.safetensors"
    base, data = ["--model", str(finished / "model")], ["--data", str(finished / "rows.jsonl"), "--split", "train"]
    moved = shutil.copytree(finished / "model", tmp_path / "moved")
    for words, message in (
        ([], "'' is no analysis"),
        (["usgae"], "did you mean 'usage'?"),
        (["usage"], "or reads --usage FILE"),
        (["usage", "--usage", str(counted), *base], "and with --model the rest of them"),
        (["usage", "--usage", str(counted), "--tuned", str(finished / "run")], "with --tuned the rest"),
        (["overlap", "--usage", str(counted), *data], "with --data the rest"),
        (["usage", "--usage", str(finished / "rows.jsonl")], "must be JSON"),
        (["usage", "--usage", str(finished / "run" / "run.json")], "it is another file"),
        (["usage", *base, "--tuned", f"a b={finished / 'run'}", f"a_b={finished / 'run'}", *data], "both a_b.json"),
        (["usage", "--usage", str(counted), "--model", f"sparsify={finished / 'model'}", *data], "both sparsify.json"),
        (["divergence", *base, *data], "name them with --tuned"),
        (
            ["divergence", "--model", str(moved), "--tuned", str(finished / "run"), *data],
            "runs of one base are compared",
        ),
        (["divergence", *base, "--tuned", "testbed", *data], "compared expert by expert"),
        (["prune", *base, *data, "--experts", str(other)], "experts of another model"),
        (["prune", *base, *data, "--criteria", "size"], "a criterion is one of"),
        (["prune", *base, *data, "--criteria", ","], "got none; name one"),
        (["prune", *base, *data, "--experts", str(tmp_path / "none.jsonl")], "a file of JSON lines"),
        (["prune", *base, *data, "--scopes", "model"], "--scopes takes layer, global"),
        (["super", *base, *data, "--device", "gpu9"], "--device is one that torch finds here; got 'gpu9'"),
        (["gradients", *base, "--tuned", str(finished / "run"), *data], "one model at a time"),
        (["dynamics", "--runs", str(finished)], "has run.json"),
    ):
        assert main(["analyze", *words, *(["--output_dir", str(tmp_path / "out")] if words else [])]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_dir_that_cannot_be_is_found_before_any_work(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_session, "load", None)
    (tmp_path / "file").write_text("mine")
    words = ["--model", str(finished / "model"), "--data", str(finished / "rows.jsonl"), "--split", "train"]
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["analyze", "super", *words, "--output_dir", str(place)]) == 2
        assert f"{tmp_path / 'file'} is a file; name another" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    for place in ("/proc/none/out", tmp_path / "below" / ("x" * 300)):
        assert main(["analyze", "super", *words, "--output_dir", str(place)]) == 2
        assert "--output_dir is a folder, made where it is not there; [Errno" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "a folder that was tried is gone"


def test_files_of_an_analysis_that_cannot_be_are_found_before_any_work(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_session, "load", None)
    words = ["--model", str(finished / "model"), "--data", str(finished / "rows.jsonl"), "--split", "train"]
    (tmp_path / "super.svg").mkdir()
    assert main(["analyze", "super", *words, "--output_dir", str(tmp_path)]) == 2
    assert "super.svg is a file of the analysis, and a folder is there" in capsys.readouterr().err
    (tmp_path / "usage").write_text("mine")
    assert main(["analyze", "usage", *words, "--output_dir", str(tmp_path)]) == 2
    assert f"{tmp_path / 'usage'} is a file; name another" in capsys.readouterr().err
    assert (tmp_path / "usage").read_text() == "mine"


def test_the_help_names_every_analysis(capsys):
    assert main(["analyze", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in ("usage", "super", "prune"))
