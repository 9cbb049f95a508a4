"""A study file: what it means, and what is wrong with it, before anything runs."""

import json
from pathlib import Path

import pytest
import yaml

from expert_condenser.errors import EvaluationError
from expert_condenser.study.cells import is_done_as_asked, recipe_of
from expert_condenser.study.done import is_done
from expert_condenser.study.plan import best_options, read_study
from expert_condenser.training.folder import annotate
from expert_condenser.training.record import RunRecord

STUDY = {
    "base": "testbed",
    "options": {"data": "testbed:gcd", "bf16": False, "use_cpu": True, "report_to": "none"},
    "seeds": [1, 2],
    "arms": {"sft": {"method": "sft"}, "two": {"method": "condenser", "num_condensers": 2}},
    "evaluate": {"tasks": {"testbed:gcd": 4}},
}


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return folder / "study.yaml"


def finish(root, cell, accuracy=0.5, nll=1.0):
    """What a finished run leaves, without running it."""
    folder = root / cell.folder
    folder.mkdir(parents=True)
    recipe = recipe_of(cell, root)
    RunRecord.begin(recipe.run.method, recipe.flat()).write(folder / "run.json")
    task = {"n": 4, "accuracy": accuracy, "nll": nll}
    results = {
        "generation": {"max_new_tokens": None},
        "questions": {"testbed:gcd": "f"},
        "tasks": {"testbed:gcd": task},
    }
    (folder / "results.json").write_text(json.dumps(results))


def test_cells_go_seed_by_seed(tmp_path):
    cells = read_study(write(tmp_path)).cells()
    assert [str(cell.folder) for cell in cells] == [
        "runs/sft/seed1", "runs/two/seed1", "runs/sft/seed2", "runs/two/seed2",
    ]  # fmt: skip
    recipe = recipe_of(cells[3], tmp_path)
    assert (recipe.run.method, str(recipe.method.num_condensers)) == ("condenser", "2")
    assert (recipe.trainer.seed, recipe.data.data) == (2, "testbed:gcd")
    assert recipe.trainer.output_dir == str(tmp_path / cells[3].folder)


def test_the_grid_crosses_every_arm(tmp_path):
    study = read_study(write(tmp_path, grid={"learning_rate": [1e-4, "2e-4"], "limit": [5, 6]}))
    labels = [cell.label for cell in study.cells() if cell.seed == 1]
    assert len(labels) == len(set(labels)) == 8
    assert labels[1] == "sft learning_rate=0.0001 limit=6"
    assert {recipe_of(cell, tmp_path).trainer.learning_rate for cell in study.cells()} == {1e-4, 2e-4}


def test_an_arm_between_the_base_and_a_result_is_trained_as_without(tmp_path):
    study = read_study(write(tmp_path, arms={"sft": {"method": "sft"}, "half": {"method": "sft", "interpolate": 0.5}}))
    sft, half = study.cells()[:2]
    assert (sft.interpolated, half.interpolated) == (None, 0.5)
    ours, theirs = (recipe_of(cell, tmp_path).flat() for cell in (sft, half))
    assert {name for name in ours if ours[name] != theirs[name]} == {"output_dir"}
    finish(tmp_path, half)
    for check in (
        lambda cell: is_done(tmp_path, cell),
        lambda cell: is_done_as_asked(tmp_path, cell, {"testbed:gcd": "f"}),
    ):
        with pytest.raises(EvaluationError, match=r"0\.5"):
            check(half)
        annotate(tmp_path / half.folder, interpolated=0.5)
        assert check(half)
        annotate(tmp_path / half.folder, interpolated=None)


def test_options_of_an_arm_win_over_those_of_all(tmp_path):
    arms = {"one": {"method": "sft", "limit": 7}, "other": {"method": "sft"}}
    cells = read_study(write(tmp_path, arms=arms, options={**STUDY["options"], "limit": 5})).cells()
    assert [recipe_of(cell, tmp_path).data.limit for cell in cells[:2]] == [7, 5]


def test_a_recipe_beside_the_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**STUDY["options"], "limit": 9}))
    study = read_study(write(tmp_path, recipe="recipe.yaml", options={}))
    assert recipe_of(study.cells()[0], tmp_path).data.limit == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, "got the unknown seedz"),
        ({"evaluate": {"tasks": {"testbed:gcd": 1}, "items": 5}}, "evaluate has the keys .* unknown items"),
        ({"evaluate": {}}, "evaluate lacks tasks"),
        ({"seeds": [1, 1]}, "seeds is a list of different whole numbers"),
        ({"seeds": 3}, "seeds is a list of different whole numbers"),
        ({"arms": ["sft"]}, "arms is a mapping"),
        ({"grid": {"limit": 3}}, "grid is a mapping"),
        ({"evaluate": {"tasks": {"testbed:gcd": 0}}}, "tasks is a mapping"),
        ({"options": {"seed": 3}}, "a study sets seed itself"),
        ({"options": None}, "options is a mapping"),
        ({"arms": {"../x": {"method": "sft"}}}, "an arm's name is letters"),
        ({"arms": {"base": {"method": "sft"}}}, "not 'base'"),
        ({"arms": {"x": {"method": "sft", "interpolate": 1.5}}}, r"interpolate of an arm is .* got \[1.5\]"),
        ({"arms": {"x": {"method": "sft", "interpolate": True}}}, "interpolate of an arm is .* got .True"),
        ({"keep_models": "no"}, "keep_models is true or false"),
        ({"tuned_as": {"other": "sft"}}, "tuned_as is of arms of this study"),
        ({"baseline": "sfft"}, "baseline is one of sft, two; got 'sfft'"),
        ({"beside": ["x"]}, "beside is a mapping"),
        ({"groups": {"tail": ["testbed:gcd", "testbed:aiw"]}}, "groups are of tasks of this study .*got testbed:aiw"),
        ({"arms": {"sft": {"output_dir": "x"}}}, "a study sets output_dir itself"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, changes, message):
    with pytest.raises(EvaluationError, match=message):
        read_study(write(tmp_path, **changes))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(EvaluationError, match="a study is a YAML file"):
        read_study(tmp_path / "missing.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    with pytest.raises(EvaluationError, match="a study is a YAML file"):
        read_study(tmp_path / "deep.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(EvaluationError, match="has the keys base"):
        read_study(tmp_path / "list.yaml")


@pytest.mark.parametrize("options", [{"method": "sftt"}, {"method": "sft", "num_condensers": 3}, {"lerning_rate": 1}])
def test_a_wrong_option_is_named_with_its_arm(tmp_path, options):
    cell = read_study(write(tmp_path, arms={"odd": options})).cells()[0]
    with pytest.raises(EvaluationError, match="arm 'odd': "):
        recipe_of(cell, tmp_path)


def test_an_option_may_name_the_seed(tmp_path):
    arms = {"random": {"method": "condenser", "condenser_rule": "random", "selection_seed": "{seed}"}}
    configs = [recipe_of(cell, tmp_path) for cell in read_study(write(tmp_path, arms=arms)).cells()]
    assert [config.method.selection_seed for config in configs] == [1, 2]


def test_the_best_options_of_another_study(tmp_path):
    sweep = tmp_path / "sweep"
    study = read_study(write(sweep, grid={"learning_rate": [1e-4, 2e-4, 4e-4]}))
    scores = {
        "sft": {1e-4: (0.2, 1), 2e-4: (0.4, 1), 4e-4: (0.3, 0)},
        "two": {1e-4: (0.3, 2), 2e-4: (0.3, 1), 4e-4: (0.1, 0)},
    }
    for cell in study.cells():
        finish(sweep, cell, *scores[cell.arm][cell.point["learning_rate"]])
    assert best_options(sweep) == {"sft": {"learning_rate": 2e-4}, "two": {"learning_rate": 2e-4}}
    arms = {**STUDY["arms"], "three": {"method": "condenser", "num_condensers": 3}}
    with pytest.raises(EvaluationError, match="no arm 'three'"):
        read_study(write(tmp_path / "main", arms=arms, tuned_by="../sweep")).cells()
    cells = read_study(write(tmp_path / "main", arms=arms, tuned_by="../sweep", tuned_as={"three": "two"})).cells()
    assert [recipe_of(cell, tmp_path).trainer.learning_rate for cell in cells[:3]] == [2e-4] * 3


@pytest.mark.parametrize(
    ("base", "expected"), [("org/model", "org/model"), ("../base", "base"), ("./base", "study/base")]
)
def test_a_base_beside_the_file(tmp_path, monkeypatch, base, expected):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "study", base=base)
    assert read_study(Path("study/study.yaml")).base == expected
