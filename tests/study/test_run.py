"""A small study from file to tables: every run in a process of its own, resumable, skipping what is done."""

import json

import pytest
import torch
import yaml

from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import EvaluationError, FailedRunError
from expert_condenser.evaluation.results import Results
from expert_condenser.study.run import run_study
from expert_condenser.study.tables import write_tables
from expert_condenser.training.record import RunRecord
from tests.runs import GAMMA1, GAMMA2, make_base

TASKS = {"testbed:gcd": 3, "testbed:aiw": 2}


def study_file(folder, **changes):
    options = {
        "dataset": str(folder / "rows.jsonl"),
        "per_device_train_batch_size": 8,
        "max_length": 64,
        "learning_rate": 3e-3,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    condenser = {"method": "condenser", "num_condensers": 1, "bias_step": GAMMA1, "bias_step_condense": GAMMA2}
    content = {
        "base": str(folder / "model"),
        "options": options,
        "seeds": [1, 2],
        "arms": {"sft": {"method": "sft"}, "ours": condenser},
        "evaluate": {"tasks": TASKS, "max_new_tokens": 4},
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    run_study(study_file(base), root, workers=2)
    return root


@pytest.mark.slow
def test_what_a_run_leaves(done):
    runs = sorted(path.parent for path in done.glob("runs/*/*/results.json"))
    assert [str(run.relative_to(done)) for run in runs] == [
        f"runs/{a}/seed{s}" for a in ("ours", "sft") for s in (1, 2)
    ]
    for run in runs:
        record, results = (json.loads((run / name).read_text()) for name in ("run.json", "results.json"))
        assert record["finished"]
        assert record["arm"] == run.parent.name
        assert (record["steps"], list(results["tasks"])) == (4, list(TASKS))
        assert record["cost"]["flops"] > 1e6
        assert record["cost"]["peak_mb"] > 100
        assert all(task["nll"] > 1 for task in results["tasks"].values())
        recorded = {str(path.relative_to(run)) for path in run.rglob("*.safetensors")}
        phases = ("sparsify", "condense") if record["method"] == "condenser" else ("train",)
        assert recorded == {f"{phase}/{name}.safetensors" for phase in phases for name in ("usage", "routing")}
        assert not list(run.rglob("tokenizer.json"))
    assert (done / "base" / "results.json").exists()
    assert not list(done.rglob("items.jsonl"))
    assert not list(done.rglob("*.log"))


@pytest.mark.slow
def test_an_arm_between_the_base_and_its_result(base, tmp_path):
    arms = {"sft": {"method": "sft"}, "half": {"method": "sft", "interpolate": 0.5}}
    run_study(study_file(base, arms=arms, seeds=[1], keep_models=True), tmp_path / "out", workers=2)
    runs = tmp_path / "out" / "runs"
    start, end, half = (
        load_model(folder).state_dict()
        for folder in (base / "model", runs / "sft" / "seed1" / "model", runs / "half" / "seed1" / "interpolated")
    )
    assert all(torch.allclose(half[name], (start[name] + end[name]) / 2, atol=1e-6) for name in end)
    assert any(not torch.allclose(half[name], end[name], atol=1e-6) for name in end)
    nll = [Results.read(runs / arm / "seed1" / "results.json").tasks["testbed:gcd"]["nll"] for arm in arms]
    assert nll[0] != nll[1]
    assert RunRecord.read(runs / "half" / "seed1" / "run.json").interpolated == 0.5


@pytest.mark.slow
def test_an_equal_evaluation_by_hand_is_equal(base, done, tmp_path, capsys):
    """Fingerprints, dtype, backend and weights are the same, whoever asks, whatever the model is called."""
    words = ["--model", str(base / "model"), "--tasks", "testbed:gcd", "--limit", "3", "--max_new_tokens", "4"]
    assert main(["eval", *words, "--device", "cpu", "--out", str(tmp_path)]) == 0
    by_study, by_hand = (json.loads((folder / "results.json").read_text()) for folder in (done / "base", tmp_path))
    assert by_study["tasks"]["testbed:gcd"] == by_hand["tasks"]["testbed:gcd"]
    assert by_study["tasks"]["testbed:gcd"]["nll"] > 0
    for key in ("weights", "generation", "format_version"):
        assert by_study[key] == by_hand[key]
    assert (by_study["model"], by_hand["model"]) == ("base", str(base / "model"))
    trained = json.loads((done / "runs" / "sft" / "seed1" / "results.json").read_text())
    assert trained["weights"] != by_hand["weights"]


@pytest.mark.slow
def test_what_is_done_is_skipped_and_what_is_missing_is_run(base, done):
    first, second = done / "runs" / "sft" / "seed1", done / "runs" / "ours" / "seed2"
    before, times = json.loads((second / "results.json").read_text()), (first / "results.json").stat().st_mtime_ns
    (second / "results.json").unlink()
    run_study(study_file(base), done)
    assert (first / "results.json").stat().st_mtime_ns == times
    after = json.loads((second / "results.json").read_text())
    assert after["tasks"] == before["tasks"]


@pytest.mark.slow
def test_tables_are_made_of_the_raw_files(done):
    write_tables(done)
    table = (done / "tables.md").read_text()
    assert "4 of 4 runs are done; compared are 2 seeds (1, 2)" in table
    report = json.loads((done / "comparison.json").read_text())
    assert {row["metric"] for row in report["rows"]} == {"testbed:gcd", "learnt before"}
    assert report["baseline"] == "sft"
    for path in ("tables.md", "comparison.json"):
        content = (done / path).read_bytes()
        (done / path).unlink()
        write_tables(done)
        assert (done / path).read_bytes() == content
    assert (done / "plot.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_go_on(base, tmp_path):
    arms = {"bad": {"method": "sft", "learning_rate": 1e30}, "good": {"method": "sft"}}
    with pytest.raises(FailedRunError, match=r"1 of 3 runs failed; see .*bad/seed1.log"):
        run_study(study_file(base, arms=arms, seeds=[1]), tmp_path / "out")
    assert "is not finite" in (tmp_path / "out" / "runs" / "bad" / "seed1.log").read_text()
    assert (tmp_path / "out" / "runs" / "good" / "seed1" / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": 3}, "got the unknown seedz"),
        ({"evaluate": {"tasks": {"testbed:none": 3}}}, "a task is one of"),
        ({"arms": {"odd": {"method": "sft", "bias_step": 0.5}}}, "arm 'odd': method 'sft' has no option 'bias_step'"),
        ({"evaluate": {"tasks": {"gsm8k": 3}, "data": "/nope"}}, "there is no file or directory /nope"),
        ({"evaluate": {"tasks": TASKS, "split": "tset"}}, "a split is one of"),
        ({"evaluate": {"tasks": TASKS, "batch_size": 0}}, "evaluate.batch_size is a whole number, 1 or more; got 0"),
        ({"evaluate": {"tasks": {"testbed:gcd": 10**6}}}, "400 items"),
        ({"base": "/nothing"}, "there is no directory /nothing"),
        ({"base": "./model"}, "base of a study are relative to its file"),
    ],
)
def test_bad_input_comes_before_any_run(base, tmp_path, changes, message, capsys):
    path = study_file(base, **changes)
    assert main(["study", str(path), "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_changed_evaluation_is_refused(base, done):
    with pytest.raises(EvaluationError, match="results of another evaluation"):
        run_study(changed(done, evaluate={"tasks": {**TASKS, "testbed:gcd": 4}, "max_new_tokens": 4}), done)


def changed(done, **changes):
    """The study file beside the runs, edited."""
    path = done / "study.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))
    return path


def test_a_folder_of_another_study_is_refused(base, tmp_path):
    (tmp_path / "study.yaml").write_text("base: other\n")
    with pytest.raises(EvaluationError, match="holds another study"):
        run_study(study_file(base), tmp_path)
