"""`results.json`: what it keeps, and that the one of before 0.2 is read."""

import json

import pytest

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.results import Results

OLD = {
    "model": "sft",
    "prompts": "p",
    "generation": {"max_new_tokens": None},
    "questions": {"a": "qa"},
    "weights": "of sizes and times",
    "throughput": {"seconds": 1.5},
    "tasks": {"a": {"n": 2, "accuracy": 0.5}, "b": {"n": 1, "accuracy": 1.0}},
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_they_survive_the_disk(tmp_path):
    tasks = {"a": {"n": 2, "prompts": "pa", "questions": "qa"}}
    results = Results("m", "p", {"dtype": "float32"}, tasks, weights="sha256:0", throughput={"seconds": 1.5})
    results.write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["format_version"] == 2
    assert Results.read(tmp_path / "results.json") == results


def test_those_of_before_keep_their_questions_by_task_and_know_no_weights(tmp_path):
    found = Results.read(write(tmp_path / "results.json", OLD))
    assert found.tasks == {"a": {"n": 2, "accuracy": 0.5, "questions": "qa"}, "b": {"n": 1, "accuracy": 1.0}}
    assert (found.format_version, found.weights, found.prompts, found.throughput) == (1, None, "p", {"seconds": 1.5})
    assert Results.read(write(tmp_path / "new.json", {**OLD, "format_version": 2})).weights == "of sizes and times"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "has format_version 3, and this release reads up to 2"),
        ({"format_version": "2"}, "has format_version '2'"),
        ({"tasks": [1]}, r"has 'tasks', of type dict; got \[1\]"),
        ({"tasks": {"a": 1}}, "has 'a', of type dict; got 1"),
        ({"prompts": None}, "has 'prompts', of type str; got None"),
    ],
)
def test_damaged_ones(tmp_path, changes, message):
    with pytest.raises(EvaluationError, match=message):
        Results.read(write(tmp_path / "results.json", {**OLD, **changes}))
