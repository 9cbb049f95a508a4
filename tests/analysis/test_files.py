"""The files that analyses read: usage, lists of experts, a run's log; and that they say when they are others."""

import json
from dataclasses import replace

import pytest
import torch

from expert_condenser.analysis.dynamics import check_together, dynamics_of
from expert_condenser.analysis.expert_lists import read_list, write_list
from expert_condenser.analysis.expert_scores import random_scores
from expert_condenser.analysis.output import read_analysis, write_analysis
from expert_condenser.analysis.overlap import overlaps
from expert_condenser.analysis.subjects import Shape, Subject
from expert_condenser.analysis.usage import ExpertUsage
from expert_condenser.analysis.usage_files import names_of, read_usage
from expert_condenser.errors import AnalysisError
from expert_condenser.training.history import UsageHistory
from expert_condenser.training.record import RunRecord

COUNTS = torch.tensor([[6, 3, 0, 3], [1, 1, 5, 5]])
MASS = torch.tensor([[0.9997, 0.5, 0.0, 0.2], [0.1, 0.1, 1.0006, 2.0]], dtype=torch.float64)


def usage(name="a", counts=COUNTS):
    return ExpertUsage(name, (1, 2), 2, counts, MASS[:, : counts.shape[1]], {1: [0]}, "law")


def test_a_usage_file_reads_as_it_was_written(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(usage().content()))
    found = read_usage(tmp_path / "a.json")
    assert (found.name, found.layers, found.top_k, found.task) == ("a", (1, 2), 2, "law")
    assert torch.equal(found.counts, COUNTS)
    assert torch.equal(found.gate_mass, MASS), "rounded sums are taken as they stand"
    assert found.condensers == {1: [0]}
    assert found.rates[0].tolist() == [0.5, 0.25, 0, 0.25]
    assert found.statistics()["dead_share"].tolist() == [0.25, 0]


def test_a_training_s_history_is_a_usage_file(tmp_path):
    history = UsageHistory()
    for step in (1, 2):
        history.add(step, COUNTS * step, None)
    history.write(tmp_path)
    assert torch.equal(read_usage(tmp_path / "usage.safetensors", "run").counts, 3 * COUNTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection_counts": None}, "lacks selection_counts: it is another file"),
        ({"format_version": 2}, "format_version 2, and this release reads 1"),
        ({"selection_counts": [[1, 2, 3, 4]]}, r"of \(layers, experts\) = \(2, 4\); got \(1, 4\)"),
        ({"selection_counts": [[1, 2], [3]]}, "a row of numbers for each layer"),
        ({"selection_counts": [[0, 0, 0, 0], [1, 1, 5, 5]]}, "a layer without any"),
        ({"selection_counts": [[-1, 2, 3, 4], [1, 1, 5, 5]]}, "finite and not negative"),
        ({"top_k_gate_mass": [[1, 2, 3, float("nan")], [1, 1, 5, 5]]}, "finite and not negative"),
        ({"top_k": 0}, "got 0 of 4"),
        ({"top_k": 5}, "got 5 of 4"),
        ({"num_experts": "4"}, "got 2 of '4'"),
        ({"layers": 2}, "depth of every MoE layer; got 2"),
        ({"condensers": [3]}, "expert ids by layer index"),
        ({"condensers": {"2": [0]}}, "layers 0 to 1 of experts 0 to 3; condensers has layer 2"),
        ({"condensers": {"0": [4]}}, r"condensers has layer 0, experts \[4\]"),
    ],
)
def test_another_file_is_no_usage_file(change, message, tmp_path):
    content = {**usage().content(), **change}
    (tmp_path / "a.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(AnalysisError, match=message):
        read_usage(tmp_path / "a.json")


def test_usage_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    one, other, run = tmp_path / "a" / "law.json", tmp_path / "b" / "law.json", tmp_path / "c" / "usage.safetensors"
    assert names_of([one, run]) == ["law", "c"]
    assert names_of([one, other]) == ["a/law", "b/law"]
    with pytest.raises(AnalysisError, match="a/law is there twice"):
        names_of([one, one])


def test_what_is_no_file_of_usage_at_all(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    for name, message in (
        ("list.json", "every key"),
        ("x.safetensors", "no usage file"),
        ("none.json", "there is none"),
    ):
        with pytest.raises(AnalysisError, match=message):
            read_usage(tmp_path / name)


def test_equal_usage_overlaps_by_1_and_disjoint_by_0():
    disjoint = usage("c", torch.tensor([[0, 0, 7, 0], [9, 9, 0, 0]]))
    same, apart, _ = overlaps([usage("a"), usage("b", COUNTS * 3), disjoint])
    assert (same.first, same.second) == ("a", "b")
    assert same.common.tolist() == pytest.approx([1, 1])
    assert same.same_top.tolist() == [1, 1]
    assert apart.common.tolist() == pytest.approx([0, 1 / 6])
    assert apart.same_top.tolist() == [0, 0]
    assert same.by_chance.tolist() == [0.25, 0.5], "half of the selections fall on one expert, and on two"
    with pytest.raises(AnalysisError, match=r"\(2, 4\) \(a\) and \(2, 3\) \(d\)"):
        overlaps([usage("a"), usage("d", COUNTS[:, :3])])


SUBJECT = Subject("mine", "path", Shape("olmoe", 32, (1, 2, 3), 8, 3))


def test_a_list_of_experts_reads_as_it_was_written(tmp_path):
    scores = {"reap": random_scores((3, 8), 1), "activation": random_scores((3, 8), 2).round(decimals=1)}
    write_list(tmp_path / "x.jsonl", SUBJECT, scores)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 3 * 8
    assert [line["rank"] for line in lines[:8]] == list(range(8))
    assert lines[0]["expert"] == scores["reap"][0].argmax()
    assert lines[8]["depth"] == 2
    found = read_list(tmp_path / "x.jsonl", SUBJECT)
    assert all(torch.equal(found[name], scores[name]) for name in scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 9}, "experts of another model: olmoe, 3 layers of 9 experts; mine is olmoe"),
        ({"family": "mixtral"}, "experts of another model: mixtral"),
        ({"layer": 3}, "layers 0 to 2 .* got layer 3, expert"),
        ({"score": None}, "line 2 is no expert"),
        ({"score": "high"}, "line 2 is no expert .*score is a number; got 'high'"),
        ({"layer": "1"}, "line 2 is no expert .*layer is of type int; got '1'"),
        ({"expert": 5, "layer": 2}, "a score for every expert of every layer"),
    ],
)
def test_a_list_of_another_model_is_refused(change, message, tmp_path):
    write_list(tmp_path / "x.jsonl", SUBJECT, {"reap": random_scores((3, 8), 1)})
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    entry = {key: value for key, value in {**json.loads(lines[1]), **change}.items() if value is not None}
    (tmp_path / "x.jsonl").write_text("\n".join([lines[0], json.dumps(entry), *lines[2:]]))
    with pytest.raises(AnalysisError, match=message):
        read_list(tmp_path / "x.jsonl", SUBJECT)


def test_a_list_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    for name in ("x.jsonl", "none.jsonl", "."):
        with pytest.raises(AnalysisError, match="--experts is a list of experts, a file of JSON lines"):
            read_list(tmp_path / name, SUBJECT)


def fake_run(folder, base="b", phases=(("sparsify", 2), ("condense", 3))):
    folder.mkdir()
    RunRecord("condenser", {"model": base}, {}, None).write(folder / "run.json")
    lines = []
    for phase, last in phases:
        history = UsageHistory()
        for step in range(1, last + 1):
            lines.append({"phase": phase, "step": step, "loss": 1.0, "nll": 1.0 / step, "grad_norm": 2.0})
            history.add(step, COUNTS, torch.full((2, 4), 0.1 * step))
        lines.append({"phase": phase, "step": last, "train_runtime": 3.0})
        (folder / phase).mkdir()
        history.write(folder / phase)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_run_s_steps_go_on_over_its_phases(tmp_path):
    found = dynamics_of(f"mine={fake_run(tmp_path / 'run')}")
    assert (found.name, found.base, found.phases) == ("mine", "b", {"sparsify": 0, "condense": 2})
    assert found.steps == found.usage_steps == [1, 2, 3, 4, 5]
    assert found.curves == {"nll": [1, 0.5, 1, 0.5, 1 / 3], "grad_norm": [2] * 5}
    assert found.counts.shape == (5, 2, 4)
    assert found.bias[:, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.3])
    assert len(found.gini()) == 5
    check_together([found, replace(found, name="again")])
    with pytest.raises(AnalysisError, match="mine is there twice; write NAME=FOLDER"):
        check_together([found, found])
    other = dynamics_of(str(fake_run(tmp_path / "other", base="c")))
    with pytest.raises(AnalysisError, match="mine from b, condenser from c"):
        check_together([found, other])


def test_a_run_that_is_being_written_is_read_as_far_as_it_is(tmp_path):
    folder = fake_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "condense", "step"')
    assert dynamics_of(str(folder)).steps == [1, 2, 3, 4, 5]
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(AnalysisError, match="no logged step yet"):
        dynamics_of(str(folder))
    with pytest.raises(AnalysisError, match=r"a run's folder has run\.json"):
        dynamics_of(str(tmp_path))


def test_an_analysis_reads_as_it_was_written(tmp_path):
    path = write_analysis(tmp_path / "new", "x", {"a": torch.tensor([1.0, torch.nan]), "b": {1: (2,)}}, {}, "command")
    found = read_analysis(path, "x")
    assert (found["a"], found["b"], found["command"]) == ([1.0, None], {"1": [2]}, "command")
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.json"]
    with pytest.raises(AnalysisError, match="it is of x"):
        read_analysis(path, "y")
    path.write_text(json.dumps({**found, "format_version": 2}))
    with pytest.raises(AnalysisError, match="format_version 2"):
        read_analysis(path, "x")
