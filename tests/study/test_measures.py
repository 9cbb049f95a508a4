"""What a study measures besides answers: kept as soon as it is there, part of what is done, refused before any run."""

import json

import pytest

from expert_condenser.checkpoint.load import load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.files import write_json
from expert_condenser.study import measures as measures_module
from expert_condenser.study.done import is_done
from expert_condenser.study.measures import MEASURES, check_measures, measure, relearnt_questions
from expert_condenser.study.plan import read_study
from expert_condenser.study.run import run_study
from tests.runs import make_base
from tests.study.test_plan import finish, write
from tests.study.test_run import study_file

pytest.importorskip("reasoning_gym")

NEW, OLD, OTHER = "testbed:gcd", "testbed:aiw", "testbed:spell_backward"
ASKED = {
    "tasks": {NEW: 3, OLD: 2, OTHER: 2},
    "modes": {NEW: "teacher_forced"},
    "kl_to_base": True,
    "relearning": {"steps": 2, "items": 3, "batch_size": 2, "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def study_of(base, **changes):
    return read_study(study_file(base, evaluate={**ASKED, **changes}))


def test_everything_is_measured_and_kept(base, tmp_path, monkeypatch):
    study, tokenizer = study_of(base), load_tokenizer(base / "model")
    found = measure(study, base / "model", tokenizer, tmp_path, "cpu")
    assert found["kl_to_base"] == {"settings": {}, "tasks": {NEW: 0.0}, "mean": 0.0}, "the base itself"
    probe = found["relearning"]
    assert probe["settings"] == ASKED["relearning"]
    assert set(probe["tasks"]) == {OLD, OTHER}
    assert probe["nll_before"] == pytest.approx(sum(before for before, _ in probe["tasks"].values()) / 2)
    assert probe["nll_after"] < probe["nll_before"]
    assert json.loads((tmp_path / MEASURES).read_text()) == found
    monkeypatch.setattr(measures_module, "load_model", None)  # not needed any more
    assert measure(study, base / "model", tokenizer, tmp_path, "cpu") == found


def test_what_a_killed_run_has_is_kept_and_other_settings_are_not(base, tmp_path):
    study, tokenizer = study_of(base), load_tokenizer(base / "model")
    kept = {"settings": {}, "tasks": {NEW: 9.0}, "mean": 9.0}
    stale = {"settings": {**ASKED["relearning"], "steps": 1}, "nll_after": -1.0}
    write_json(tmp_path / MEASURES, {"kl_to_base": kept, "relearning": stale})
    found = measure(study, base / "model", tokenizer, tmp_path, "cpu")
    assert found["kl_to_base"] == kept
    assert found["relearning"]["nll_after"] > 0


def test_relearnt_items_are_of_each_task_in_turn_and_not_those_that_are_asked(base):
    study = study_of(base)
    questions = relearnt_questions(study, study.evaluate.relearning)
    assert len(questions) == 3
    both = [measures_module._load(study, {name: 2}, "validation")[0].questions for name in (OLD, OTHER)]
    assert questions == [both[0][0], both[1][0], both[0][1]]
    asked = measures_module._load(study, {OLD: 2}, "test")[0].questions
    assert not {question.prompt[0]["content"] for question in questions} & {q.prompt[0]["content"] for q in asked}


def test_measures_are_part_of_what_is_done(tmp_path):
    cell = read_study(write(tmp_path)).cells()[0]
    finish(tmp_path, cell)
    assert is_done(tmp_path, cell)
    for evaluation, words in (
        ({"tasks": {NEW: 4}, "kl_to_base": True}, "measures: {} there, {'kl_to_base': {}}"),
        ({"tasks": {NEW: 4}, "modes": "teacher_forced"}, "modes: {} there"),
    ):
        other = read_study(write(tmp_path, evaluate=evaluation)).cells()[0]
        with pytest.raises(EvaluationError, match="another evaluation") as error:
            is_done(tmp_path, other)
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relearning": {"steps": 0}}, "relearning.steps is a whole number"),
        ({"relearning": {"learning_rate": 0}}, "learning_rate is above 0"),
        ({"relearning": {"lr": 1}}, "a mapping of steps, items"),
        ({"kl_to_base": 3}, "kl_to_base is true or false"),
        ({"modes": {"testbed:none": "generate"}}, "a mapping to them from tasks"),
        ({"modes": "guess"}, "modes is one of generate, likelihood, teacher_forced"),
    ],
)
def test_wrong_options(tmp_path, changes, message):
    with pytest.raises(EvaluationError, match=message):
        read_study(write(tmp_path, evaluate={"tasks": {NEW: 4}, **changes}))


def test_relearning_without_anything_known_is_refused(tmp_path):
    study = read_study(write(tmp_path, evaluate={"tasks": {NEW: 4}, "relearning": True}))
    with pytest.raises(EvaluationError, match="has no such task"):
        check_measures(study)
    check_measures(read_study(write(tmp_path, evaluate={"tasks": {NEW: 4, OLD: 3}, "relearning": True})))


@pytest.mark.slow
def test_a_study_with_all_of_it(base, tmp_path):
    """Trained, forced, measured, skipped when run again; the tables have it."""
    from expert_condenser.study.tables import write_tables

    path = study_file(base, evaluate=ASKED, seeds=[1], grid={"learning_rate": [1e-3, 3e-3]})
    run_study(path, tmp_path, workers=2)
    (first, *_) = sorted(tmp_path.glob("runs/sft/*/seed1/results.json"))
    results = json.loads(first.read_text())
    assert results["measures"]["kl_to_base"]["mean"] > 0
    assert results["generation"]["modes"][NEW] == "teacher_forced"
    assert len(results["tasks"][NEW]["nll_items"].split()) == 3
    assert not list(tmp_path.rglob(MEASURES))
    before = first.stat().st_mtime_ns
    run_study(path, tmp_path)
    assert first.stat().st_mtime_ns == before
    write_tables(tmp_path)
    table = (tmp_path / "tables.md").read_text()
    assert "| KL to base | nll before, relearnt |" in table
    assert "hypervolume, %" in table
