"""How the base model of a run is loaded, and at which rates its parts learn."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from expert_condenser.errors import CheckpointError, TrainingError
from expert_condenser.training import phase as phase_module
from expert_condenser.training.model import load_for_training
from expert_condenser.training.run import train
from tests.runs import assert_identical, config, interrupted, make_base, read


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def load(recipe, source, *, is_base=True):
    return load_for_training(source, recipe, recipe.new_method(), is_base=is_base)


@pytest.fixture
def asked(monkeypatch):
    """The options of the last call of `from_pretrained`."""
    found = {}
    stock = AutoModelForCausalLM.from_pretrained.__func__

    def from_pretrained(cls, path, *args, **options):
        found.clear()
        found.update(options)
        return stock(cls, path, *args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(from_pretrained))
    return found


def test_options_reach_from_pretrained(base, tmp_path, asked):
    options = {"attn_implementation": "eager", "device_map": "cpu", "revision": "v1", "experts_implementation": "eager"}
    model = load(config(base, tmp_path, method="sft", **options), base / "model")
    assert options.items() <= asked.items()
    assert (model.config._attn_implementation, model.config._experts_implementation) == ("eager", "eager")
    load(config(base, tmp_path, method="sft", **options), base / "model", is_base=False)
    assert "revision" not in asked, "a checkpoint of the run has none"
    load(config(base, tmp_path, method="sft"), base / "model")
    assert not {"attn_implementation", "device_map", "revision"} & asked.keys()
    assert asked["experts_implementation"] == "sorted_mm"


def quantised(base, folder, method):
    folder.mkdir()
    content = json.loads((base / "model" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "quantization_config": {"quant_method": method}}))
    return folder


def test_a_base_in_mxfp4_is_loaded_as_weights_that_can_train(base, tmp_path, asked):
    """gpt-oss is published in this form; there are no such weights here, so the load itself fails."""
    with pytest.raises(CheckpointError):
        load(config(base, tmp_path / "run", method="sft"), quantised(base, tmp_path / "mxfp4", "mxfp4"))
    assert asked["quantization_config"].dequantize is True


def test_a_quantised_base_is_refused_before_its_weights_are_read(base, tmp_path, asked):
    folder = quantised(base, tmp_path / "quantised", "bitsandbytes")
    with pytest.raises(TrainingError, match=r"is quantised .*Take its bfloat16 version"):
        load(config(base, tmp_path / "run", method="sft"), folder)
    assert asked == {}
    assert load(config(base, tmp_path / "run", method="sft"), base / "model") is not None


@pytest.fixture
def trainers(monkeypatch):
    """Every trainer that a run makes."""
    found = []
    stock = phase_module.make_trainer

    def keep(*args):
        found.append(stock(*args))
        return found[-1]

    monkeypatch.setattr(phase_module, "make_trainer", keep)
    return found


@pytest.mark.parametrize("method", ["sft", "condenser", "densemixer"])
def test_the_routers_learn_at_a_rate_of_their_own(base, tmp_path, trainers, method):
    options = {"method": method, "max_steps": 2, "save_steps": 100.0, "lr_scheduler_type": "constant"}
    options |= {"lr_scheduler_kwargs": {}, "warmup_steps": 0.0}
    train(config(base, tmp_path / "run", router_learning_rate_factor=0.25, **options))
    for trainer in trainers:
        names = {id(p): name for name, p in trainer.model.named_parameters()}
        rates = {names[id(p)]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
        assert rates.keys() == set(names.values()), "every parameter is in one group"
        assert {rate for name, rate in rates.items() if ".gate." in name} == {0.25 * 3e-3}
        assert {rate for name, rate in rates.items() if ".gate." not in name} == {3e-3}
        assert trainer.optimizer.param_groups[0]["lr"] == 3e-3, "the rate that is logged"


def test_a_factor_of_one_is_as_if_there_was_none(base, tmp_path, trainers):
    train(config(base, tmp_path / "run", method="sft", router_learning_rate_factor=1.0, max_steps=1, save_steps=100.0))
    assert len(trainers[0].optimizer.param_groups) == 2, "with and without weight decay"


def test_a_factor_without_effect_is_an_error(base, tmp_path):
    options = {"method": "frozen_router", "router_learning_rate_factor": 0.5, "max_steps": 1}
    with pytest.raises(TrainingError, match=r"router_learning_rate_factor = 0\.5 has no effect: no router trains"):
        train(config(base, tmp_path / "run", **options))


def test_a_run_with_a_factor_resumes(base, tmp_path):
    options = {"method": "sft", "router_learning_rate_factor": 0.5}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "train", "on_step_end", 5, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases=("train",), last=8)
    assert read(tmp_path / "whole" / "run.json")["config"]["router_learning_rate_factor"] == 0.5
    train(config(base, tmp_path / "plain", method="sft"))
    with pytest.raises(AssertionError):
        assert_identical(tmp_path / "plain", tmp_path / "whole", phases=("train",), last=8)


def test_the_weights_are_those_of_the_file(base, tmp_path):
    model = load(config(base, tmp_path, method="sft"), base / "model")
    stock = AutoModelForCausalLM.from_pretrained(base / "model", dtype="float32")
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in model.state_dict().items())
