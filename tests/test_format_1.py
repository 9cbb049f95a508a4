"""What release 0.1 wrote is read: a model, an adapter and interrupted runs load, resume and compare.

tests/data/format_1 was made by 0.1 (commit dc1c76d) with the functions of its tests/runs.py, in the directory itself,
so that paths are relative: a tiny OLMoE and 16 rows in `base`; runs of three methods, each interrupted and to the end;
`expected.safetensors` has every weight of the results, and logits.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from expert_condenser import METHODS, moe_layers
from expert_condenser.checkpoint import load_model
from expert_condenser.errors import DataError, TrainingError
from expert_condenser.training.record import FORMAT_VERSION, RunRecord
from expert_condenser.training.run import train
from tests.runs import config, read

WRITTEN = Path(__file__).parent / "data" / "format_1"
OPTIONS = {
    "condenser": {"method": "condenser"},
    "esft_gate": {"method": "esft_gate", "top_p": 0.5, "score_rows": 8},
    "lora": {"method": "condenser", "lora": "attention+experts", "lora_r": 2, "lora_alpha": 4},
}
TOLERANCE = 1e-6
"""Of weights and logits: another CPU rounds otherwise; on the one that wrote the files both are equal bit for bit."""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A copy to work in; paths in the files are relative to it."""
    shutil.copytree(WRITTEN, tmp_path / "format_1")
    monkeypatch.chdir(tmp_path / "format_1")
    return tmp_path / "format_1"


@pytest.fixture(scope="module")
def expected():
    return load_file(WRITTEN / "expected.safetensors")


def weights_of(expected, name):
    prefix = f"{name}.weights."
    return {key.removeprefix(prefix): value for key, value in expected.items() if key.startswith(prefix)}


@torch.no_grad()
def logits(model, expected):
    return model.eval()(input_ids=expected["ids"]).logits


def recipe(name, **options):
    return config(Path("base"), Path("interrupted") / name, save_total_limit=1, **OPTIONS[name], **options)


def test_a_model_loads(written, expected):
    model = load_model(Path("finished/condenser/model"))
    found, wanted = model.state_dict(), weights_of(expected, "condenser")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert (logits(model, expected) - expected["condenser.logits"]).abs().max() < TOLERANCE
    with torch.no_grad():
        moe_layers(model)[0].router.selection_bias.mul_(-1)
    assert (logits(model, expected) - expected["condenser.logits"]).abs().max() > 1e-3, "the bias decides"


def test_an_adapter_loads(written, expected):
    model = load_model(Path("finished/lora/adapter"))
    assert (logits(model, expected) - expected["adapter.logits"]).abs().max() < TOLERANCE
    with model.disable_adapter():
        assert (logits(model, expected) - expected["adapter.logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_run_ends_as_the_undisturbed_one_did(written, expected, name):
    assert "format_version" not in read(Path("interrupted") / name / "run.json")
    model = load_model(train(recipe(name, resume=True)))
    found, wanted = model.state_dict(), weights_of(expected, name)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        exact = key.endswith(("selection_bias", "condenser_ids"))
        assert torch.equal(found[key], value) if exact else (found[key] - value).abs().max() < TOLERANCE, key
    record, other = (read(Path(kind) / name / "run.json") for kind in ("interrupted", "finished"))
    assert record["format_version"] == FORMAT_VERSION
    assert record["finished"] is True
    assert (record["steps"], record["tokens"]) == (other["steps"], other["tokens"])


def test_a_resume_with_other_options_is_refused(written):
    with pytest.raises(TrainingError, match=r"learning_rate: 0.003 there, 0.001 asked for"):
        train(recipe("condenser", resume=True, learning_rate=1e-3))
    with pytest.raises(TrainingError, match=r"data: 'base/rows.jsonl' there, 'elsewhere.jsonl' asked for"):
        train(recipe("condenser", resume=True, data="elsewhere.jsonl"))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_record_is_read_as_one_of_today(name):
    record = RunRecord.read(WRITTEN / "finished" / name / "run.json")
    today = recipe(name).flat()
    assert record.format_version == FORMAT_VERSION
    assert record.config["model"] == "base/model"
    assert record.config.keys() <= today.keys()
    new = {"attn_implementation", "device_map", "revision"}
    new |= {"ignore", "on_bad_row", "loss_on", "end_of_turn", "chat_template_kwargs"}
    new |= set(METHODS[record.method].Config.variants)
    assert today.keys() - record.config.keys() == new
    assert {key for key, value in record.config.items() if value != today[key]} == {"output_dir"}


def test_the_base_of_a_run_is_the_one_that_had_the_name_then(tmp_path):
    content = read(WRITTEN / "finished" / "condenser" / "run.json")
    for version, options, model in [
        (1, {"model_name_or_path": "testbed"}, "testbed-v1"),
        (2, {"model": "testbed"}, "testbed-v1"),
        (3, {"model": "testbed"}, "testbed-v1"),
        (3, {"model": "runs/testbed"}, "runs/testbed"),
        (4, {"model": "testbed"}, "testbed"),
    ]:
        (tmp_path / "run.json").write_text(json.dumps({**content, "format_version": version, "config": options}))
        assert RunRecord.read(tmp_path / "run.json").config["model"] == model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 5}, "format_version 5, and this release reads up to 4; update"),
        ({"format_version": "two"}, "format_version 'two'"),
        ({"config": None}, "'config', of type dict; got None"),
        ({"method": 7}, "'method', of type str; got 7"),
    ],
)
def test_a_record_that_cannot_be_read(tmp_path, change, message):
    content = {**read(WRITTEN / "finished" / "condenser" / "run.json"), **change}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        RunRecord.read(tmp_path / "run.json")


def test_the_options_of_a_method_of_ones_own_stay(tmp_path):
    content = read(WRITTEN / "finished" / "condenser" / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({**content, "method": "mine"}))
    assert "top_p" in RunRecord.read(tmp_path / "run.json").config
    assert "top_p" not in RunRecord.read(WRITTEN / "finished" / "condenser" / "run.json").config
