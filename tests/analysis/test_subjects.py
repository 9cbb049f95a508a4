"""What is analysed belongs together, or is refused before a weight is loaded."""

import json
from dataclasses import replace

import pytest

from expert_condenser.analysis.subjects import Subject, check_together, condensers_of, find_subject, load, shape_of
from expert_condenser.checkpoint.load import base_model_path
from expert_condenser.errors import AnalysisError
from expert_condenser.testing import tiny_config
from expert_condenser.training.record import RunRecord
from tests.runs import config, make_base, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("base"))
    train(config(base, base / "run"))
    return base


def test_a_run_a_model_and_a_name(finished):
    run, model, named = (
        find_subject(str(finished / "run")),
        find_subject(str(finished / "run" / "model")),
        find_subject(f"mine={finished / 'model'}"),
    )
    assert (run.name, run.method, run.base) == ("condenser", "condenser", str(finished / "model"))
    assert (model.name, model.path, model.base) == ("model", run.path, run.base)
    assert (named.name, named.base) == ("mine", None)
    assert run.shape == model.shape == named.shape
    assert str(run.shape) == "olmoe, 3 MoE layers of 8 experts, top 3, hidden size 32"
    check_together(named, [run, replace(model, name="other")])
    assert condensers_of(load(run)).keys() == {0, 1, 2}
    assert condensers_of(load(named)) == {}


def test_no_weight_is_read_for_a_shape(tmp_path):
    tiny_config("deepseek_v2").save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert (shape.layers, shape.num_experts, shape.top_k) == ((1, 2), 8, 3)


def test_runs_of_different_bases_are_refused(finished, tmp_path):
    base = find_subject(f"base={finished / 'model'}")
    run = find_subject(str(finished / "run"))
    other = replace(run, name="other", base=str(tmp_path))
    with pytest.raises(AnalysisError, match=r"other was tuned from .*, and the base here is"):
        check_together(base, [run, other])
    check_together(base, [run, other], any_base=True)
    with pytest.raises(AnalysisError, match="condenser is there twice"):
        check_together(base, [run, run])
    with pytest.raises(AnalysisError, match=r"base is olmoe, 3 MoE.*; condenser is olmoe, 3 MoE layers of 9 experts"):
        check_together(base, [replace(run, shape=replace(run.shape, num_experts=9))])


def test_a_run_that_goes_on_is_refused_and_so_is_what_is_no_model(tmp_path):
    RunRecord("sft", {"model": "x"}, {}, None).write(tmp_path / "run.json")
    with pytest.raises(AnalysisError, match="is not: finish it with --resume"):
        find_subject(str(tmp_path))
    with pytest.raises(AnalysisError, match="is no model"):
        find_subject(str(tmp_path / "nothing"))


def test_the_embedded_base_has_a_name():
    found = find_subject("testbed")
    assert (found.name, found.path) == ("testbed", str(base_model_path()))
    settings = json.loads((base_model_path() / "config.json").read_text())
    assert found.shape.num_experts == settings["num_experts"]
    assert isinstance(found, Subject)
