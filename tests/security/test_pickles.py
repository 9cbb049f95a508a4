"""Nothing is unpickled, whoever reads: our code, transformers on a resume, PEFT, torch."""

import shutil

import pytest
import torch

from expert_condenser import RoutingConfig, attach
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import CheckpointError
from expert_condenser.files import MANIFEST, write_manifest
from expert_condenser.testing import tiny_model
from expert_condenser.training.run import train
from tests.runs import config, interrupted, make_base
from tests.security.hostile import hostile_pickle

STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "created"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A base, and a run of it that stopped behind its second checkpoint."""
    base = make_base(tmp_path_factory.mktemp("base"))
    folder = base / "run"
    interrupted(base, folder, "train", "on_step_end", 3, method="sft")
    return base, folder


def test_control_a_pickle_that_is_loaded_runs(target, tmp_path):
    hostile_pickle(tmp_path / "x.pt", target)
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("own_type", [False, True])
def test_a_base_of_pytorch_model_bin_is_not_unpickled(own_type, target, tmp_path):
    model = tiny_model("olmoe")
    (attach(model, RoutingConfig()) if own_type else model).save_pretrained(tmp_path)
    state = model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    load_model(tmp_path)  # control: such a file is read
    hostile_pickle(tmp_path / "pytorch_model.bin", target, state)
    with pytest.raises(CheckpointError, match=r"cannot be loaded as a whole model.*(?i:weights.only)"):
        load_model(tmp_path)
    assert not target.exists()


def test_an_adapter_of_a_bin_file_is_refused(target, tmp_path):
    base = tmp_path / "base"
    tiny_model("olmoe").save_pretrained(base)
    adapted = add_adapter(load_model(base), AdapterConfig(lora="attention"), ["attention"], None)
    adapted.save_pretrained(tmp_path)
    load_model(tmp_path)  # control
    (tmp_path / "adapter_model.safetensors").unlink()
    hostile_pickle(tmp_path / "adapter_model.bin", target)
    with pytest.raises(CheckpointError, match="saved as safetensors"):
        load_model(tmp_path)
    assert not target.exists()


@pytest.mark.parametrize("name", STATES)
def test_a_resume_unpickles_no_state(name, run, target, tmp_path, capsys):
    base, stopped = run
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    checkpoint = folder / "train" / "checkpoint-2"
    assert (checkpoint / name).exists()
    hostile_pickle(checkpoint / name, target, torch.load(checkpoint / name, weights_only=False))
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint)  # whoever makes the file makes its digest too
    with pytest.raises(CheckpointError, match=r"checkpoint-2 holds the states.*no plain tensors"):
        train(config(base, folder, method="sft", resume=True))
    assert not target.exists()


def test_a_resume_does_not_read_the_training_s_arguments(run, target, tmp_path):
    base, stopped = run
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    checkpoint = folder / "train" / "checkpoint-2"
    assert (checkpoint / "training_args.bin").exists()
    hostile_pickle(checkpoint / "training_args.bin", target)
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint)
    assert train(config(base, folder, method="sft", resume=True)) == folder / "model"
    assert not target.exists()


def test_the_command_says_it_in_one_message(target, tmp_path, capsys):
    tiny_model("olmoe").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    hostile_pickle(tmp_path / "pytorch_model.bin", target)
    words = ["export", "--model", str(tmp_path), "--to", "native", "--output_dir", str(tmp_path / "out")]
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not target.exists()
