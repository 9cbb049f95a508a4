"""Which cells are done: told from the raw files for tables, and to the last option before a study goes on."""

import json
import re

import pytest
import yaml

from expert_condenser.errors import EvaluationError
from expert_condenser.study.cells import is_done_as_asked
from expert_condenser.study.done import _says, is_done
from expert_condenser.study.plan import read_study
from tests.study.test_plan import STUDY, finish, write

QUESTIONS = {"testbed:gcd": "f"}


def as_asked(root, cell):
    return is_done_as_asked(root, cell, QUESTIONS)


both = pytest.mark.parametrize("done", [is_done, as_asked])


@both
def test_done_is_what_has_results_of_the_same_recipe(tmp_path, done):
    cell = read_study(write(tmp_path)).cells()[1]
    assert not done(tmp_path, cell)
    finish(tmp_path, cell)
    assert done(tmp_path, cell)
    changed = read_study(write(tmp_path, options={**STUDY["options"], "limit": 5})).cells()[1]
    with pytest.raises(EvaluationError, match=r"results of another recipe.*limit: None there, 5 asked for"):
        done(tmp_path, changed)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"tasks": {"testbed:gcd": 3}}, "items: {'testbed:gcd': 4} there, {'testbed:gcd': 3} in the study"),
        ({"tasks": {"testbed:gcd": 4, "testbed:aiw": 1}}, "tasks: "),
        ({"tasks": {"testbed:gcd": 4}, "max_new_tokens": 9}, "max_new_tokens: None there, 9"),
    ],
)
def test_results_of_another_evaluation_are_refused(tmp_path, evaluation, message):
    finish(tmp_path, read_study(write(tmp_path)).cells()[0])
    cell = read_study(write(tmp_path, evaluate=evaluation)).cells()[0]
    with pytest.raises(EvaluationError, match=re.escape(message)):
        is_done(tmp_path, cell)


def test_other_questions_are_refused(tmp_path):
    cell = read_study(write(tmp_path)).cells()[0]
    finish(tmp_path, cell)
    assert is_done_as_asked(tmp_path, cell, QUESTIONS)
    with pytest.raises(EvaluationError, match="questions: "):
        is_done_as_asked(tmp_path, cell, {"testbed:gcd": "other"})


def test_results_from_before_an_option_existed_count(tmp_path):
    cell = read_study(write(tmp_path)).cells()[0]
    finish(tmp_path, cell)
    path = tmp_path / cell.folder / "run.json"
    record = json.loads(path.read_text())
    del record["config"]["router_learning_rate_factor"]
    path.write_text(json.dumps(record))
    assert is_done(tmp_path, cell)


@both
def test_options_are_compared_by_what_they_mean(tmp_path, done):
    written = {"learning_rate": "1e-4", "bf16": "False", "report_to": "none", "save_strategy": "no", "limit": None}
    options = {**STUDY["options"], **written, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    cell = read_study(write(tmp_path, options=options)).cells()[1]
    finish(tmp_path, cell)
    assert done(tmp_path, cell)
    assert done(tmp_path, read_study(write(tmp_path, options={**options, "learning_rate": 0.0001})).cells()[1])
    other = read_study(write(tmp_path, options={**options, "learning_rate": "2e-4"})).cells()[1]
    with pytest.raises(EvaluationError, match=r"learning_rate: 0.0001 there, '?(2e-4|0.0002)'? asked for"):
        done(tmp_path, other)


@both
def test_the_options_of_a_recipe_beside_the_file_count(tmp_path, done):
    options = {**STUDY["options"], "limit": 7}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(options))
    cell = read_study(write(tmp_path, recipe="recipe.yaml", options={})).cells()[0]
    finish(tmp_path, cell)
    assert done(tmp_path, cell)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**options, "limit": 8}))
    with pytest.raises(EvaluationError, match="limit: 7 there, 8 asked for"):
        done(tmp_path, cell)


@pytest.mark.parametrize(
    ("recorded", "written", "same"),
    [
        (1e-4, "1e-4", True),
        (1e-4, 2e-4, False),
        (True, "true", True),
        (False, True, False),
        (None, 5, False),
        ("2", 2, True),
        ("experts", "attention", False),
        ([], "none", True),
        ({"a": 1}, {"a": 2}, False),
    ],
)
def test_what_a_recorded_value_says(recorded, written, same):
    assert _says(recorded, written) == same


def test_a_base_beside_the_file_is_the_same_from_anywhere(tmp_path, monkeypatch):
    """The runs were made where the file's base is `models/base`; tables look from elsewhere."""
    root = tmp_path / "studies" / "one"
    monkeypatch.chdir(tmp_path)
    relative = read_study(write(root, base="../../models/base").relative_to(tmp_path)).cells()[0]
    assert relative.study.base == "models/base"
    finish(root, relative)
    assert is_done(root, relative)
    monkeypatch.chdir(root.parent)
    assert is_done(root, read_study(root / "study.yaml").cells()[0])
    assert is_done(root, read_study((root / "study.yaml").relative_to(root.parent)).cells()[0])
    other = read_study(write(root, base="../../models/other")).cells()[0]
    with pytest.raises(EvaluationError, match=r"model: 'models/base' there, '.*models/other' asked for"):
        is_done(root, other)
