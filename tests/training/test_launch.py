"""One command that starts all processes of a run."""

import json
import os
import signal
import threading

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from expert_condenser.errors import TrainingError
from expert_condenser.training import launch as launch_module
from expert_condenser.training.engines import DEEPSPEED, ENGINES, check_engine, config_file, expert_parallel
from expert_condenser.training.launch import Launch, end_with_launcher, launch_of, start
from expert_condenser.training.parse import parse_recipe, written_options
from tests.runs import make_base
from tests.short_run import launched

KINDS = {"ddp": "MULTI_GPU", "ep": "MULTI_GPU", "fsdp2": "FSDP", "fsdp2_offload": "FSDP"} | dict.fromkeys(
    DEEPSPEED, "DEEPSPEED"
)


@pytest.fixture(autouse=True)
def not_launched(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("EXPERT_CONDENSER_LAUNCHER", "")  # so that it is taken away again
    monkeypatch.setattr(launch_module.torch.accelerator, "device_count", lambda: 0)


def test_what_is_asked_is_taken_out_of_the_words():
    words = ["--accelerate-config", "ddp", "--seed", "3", "--num_processes=2"]
    assert launch_of(words, {}) == Launch("ddp", 2, ["--seed", "3"])
    assert launch_of(["--seed", "3"], {}) is None


def test_a_recipe_may_ask_and_flags_go_over_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: x.jsonl\noutput_dir: out\nmethod: sft\naccelerate_config: fsdp2\nnum_processes: 8\n")
    words = ["--config", str(recipe)]
    written = written_options(words)
    assert launch_of(words, written) == Launch("fsdp2", 8, words)
    assert launch_of([*words, "--num_processes", "2"], written) == Launch("fsdp2", 2, words)
    assert parse_recipe([*words, "--use_cpu", "true"]).data.data == "x.jsonl", "the processes themselves read past it"


def test_the_processes_are_as_many_as_accelerators(monkeypatch):
    monkeypatch.setattr(launch_module.torch.accelerator, "device_count", lambda: 4)
    assert launch_of(["--accelerate_config", "ddp"], {}).processes == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accelerate_config", "fsdp3"], "accelerate_config is one of ddp, ep, fsdp2, .* got 'fsdp3'"),
        (["--accelerate_config"], "got ''"),
        (["--accelerate_config", "ddp"], "this machine has no accelerator to count; set it"),
        (["--accelerate_config", "ddp", "--num_processes", "0"], "got '0'"),
        (["--accelerate_config", "ddp", "--num_processes", "two"], "got 'two'"),
        (["--num_processes", "2"], "num_processes is of accelerate_config"),
    ],
)
def test_what_cannot_be_started(words, message):
    with pytest.raises(TrainingError, match=message):
        launch_of(words, {})


def test_a_process_of_another_launcher_starts_none(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launch_of(["--seed", "3"], {"accelerate_config": "ddp"}) is None
    with pytest.raises(TrainingError, match="this one was started by a launcher"):
        launch_of(["--accelerate_config", "ddp"], {})


def test_deepspeed_is_asked_for_before_anything_starts(monkeypatch):
    monkeypatch.setattr("expert_condenser.training.engines.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="zero3 needs DeepSpeed"):
        config_file("zero3")
    with pytest.raises(TrainingError, match="ep needs transformers 5"):
        config_file("ep")
    assert config_file("fsdp2") == ENGINES["fsdp2"]


@pytest.mark.parametrize(
    ("variable", "kind"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED")]
)
def test_another_engine_than_the_one_that_was_asked_for_is_an_error(monkeypatch, variable, kind):
    check_engine("MULTI_CPU", 2)
    monkeypatch.setenv(variable, "true")
    check_engine(kind, 2)
    check_engine("NO", 1)
    with pytest.raises(TrainingError, match=f"{kind} was asked for, and accelerate runs MULTI_CPU"):
        check_engine("MULTI_CPU", 2)


@pytest.mark.parametrize("name", ENGINES)
def test_accelerate_reads_every_engine(name):
    config = load_config_from_file(str(ENGINES[name]))
    assert config.distributed_type.value == KINDS[name]
    text = ENGINES[name].read_text()
    assert ("offload" in name) == ("_device: cpu" in text or "offload_params: true" in text)
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False, "it fails on persistent buffers"
        assert config.fsdp_config["fsdp_activation_checkpointing"] is False, "it repeats no choice of experts"


def test_what_is_started(monkeypatch):
    calls = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", calls.append)
    start(Launch("ddp", 2, ["--seed", "3"]), "train")
    (found,) = calls
    assert (found.config_file, found.num_processes, found.module) == (str(ENGINES["ddp"]), 2, True)
    assert (found.training_script, found.training_script_args) == ("expert_condenser.cli", ["train", "--seed", "3"])
    assert expert_parallel.VARIABLE not in os.environ
    assert vars(found).keys() == vars(launch_command_parser().parse_args(["x.py"])).keys()


def test_the_processes_of_expert_parallelism_are_told_by_their_environment(monkeypatch):
    monkeypatch.setenv(expert_parallel.VARIABLE, "")  # so that it is taken away again
    assert not expert_parallel.is_asked()
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda options: None)
    start(Launch("ep", 2, []), "train")
    assert expert_parallel.is_asked()


@pytest.mark.slow
def test_two_processes_train_by_one_command(tmp_path):
    base = make_base(tmp_path)
    done = launched(base, tmp_path / "run", "fsdp2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result: ") == 1, "one process speaks"
    assert " per device on fsdp2: " in " ".join(done.stderr.split())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["finished"], record["engine"], record["processes"]) == (True, "fsdp2", 2)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    refused = launched(base, tmp_path / "other", "fsdp2_offload")
    assert refused.returncode == 2
    assert "the run is on CPUs; take fsdp2" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("status", "expected"), [(2, 2), (-9, 137)])
def test_the_status_is_that_of_the_process_that_failed_first(monkeypatch, status, expected):
    failure = ProcessFailure(0, 1, status, "none")

    def fail(options):
        raise ChildFailedError("train", {0: failure})

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    with pytest.raises(SystemExit) as caught:
        start(Launch("ddp", 2, []), "train")
    assert caught.value.code == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_is_the_status_of_its_processes(monkeypatch, number, status):
    def stop(options):
        assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "300", "time to save"
        raise SignalException("got a signal", number)

    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", stop)
    with pytest.raises(SystemExit) as caught:
        start(Launch("ddp", 2, []), "train")
    assert caught.value.code == status


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2", "a launch file is YAML"),
        (b"\xff\xfe\x00", "a launch file is YAML"),
        (b"", "with distributed_type, .* holds a NoneType"),
        (b"a: 1", r"with distributed_type, .* has \['a'\]"),
        (b"distributed_type: MULTI_GPU\nbogus: 3", r"starts no process by .*unknown keys \(\['bogus'\]\)"),
        (b"distributed_type: NONE_SUCH", "starts no process by .*NONE_SUCH"),
    ],
)
def test_a_launch_file_that_is_none(tmp_path, content, message):
    file = tmp_path / "launch.yaml"
    file.write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        start(launch_of(["--accelerate_config", str(file), "--num_processes", "2"], {}), "train")


def test_a_process_ends_with_its_launcher_and_not_before(monkeypatch):
    alive, sent, killed = threading.Event(), [], threading.Event()
    alive.set()
    monkeypatch.setattr(launch_module, "start_of", lambda pid: "then" if alive.is_set() and pid == 77 else None)
    monkeypatch.setattr(launch_module.os, "kill", lambda pid, number: (sent.append((pid, number)), killed.set()))
    monkeypatch.setattr(launch_module, "_LOOK", 0.01)
    monkeypatch.setattr(launch_module, "SAVING", 3600)
    monkeypatch.delenv("EXPERT_CONDENSER_LAUNCHER", raising=False)
    before = threading.active_count()
    end_with_launcher()
    assert threading.active_count() == before, "another launcher's process is not ours to end"
    monkeypatch.setenv("EXPERT_CONDENSER_LAUNCHER", "77 then")
    end_with_launcher()
    assert not killed.wait(0.1)
    alive.clear()
    assert killed.wait(5)
    assert sent == [(os.getpid(), signal.SIGTERM)]
