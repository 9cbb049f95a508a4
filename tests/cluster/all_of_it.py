"""Slurm itself, two nodes of it (`make slurm-check`): studies as jobs, runs over both by `recipes/slurm/train.sh`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from expert_condenser.checkpoint.guard import unfinished_in
from expert_condenser.cli.main import main
from expert_condenser.errors import FailedRunError
from expert_condenser.study.run import run_study
from tests.cluster.two_nodes import cluster, missing, until
from tests.engines.cases import TOLERANCE, Left, difference
from tests.runs import make_base, read
from tests.short_run import ENVIRONMENT, ROOT, words_of
from tests.study.test_folder import small_study
from tests.study.test_jobs import NAMES, results

pytestmark = pytest.mark.skipif(bool(missing() or os.getuid()), reason="needs root, and Debian's Slurm")
SCRIPT = ROOT / "recipes" / "slurm" / "train.sh"
OPTIONS = {"timeout_min": 10, "mem_gb": 2, "gpus_per_node": 1, "cpus_per_task": 1}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """What Slurm's commands and its jobs need, for all tests."""
    with cluster(tmp_path_factory.mktemp("cluster")) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
            patch.setenv(name, ENVIRONMENT[name])
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """The run in one process, without a cluster."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", *words_of(base, folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory):
    """The study as processes of this machine."""
    root = tmp_path_factory.mktemp("processes")
    run_study(small_study(base, root), root)
    return root


def said(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def state(job):
    """What the accounting says of a job; empty before it knows it."""
    return said("sacct", "-X", "-n", "-P", "-o", "State", "-j", job).strip().split(" ")[0]


def sent(base, folder, engine, *words, **options):
    """A run of two processes on each of the two nodes, of as many rows in a step as one process takes; its job."""
    own = words_of(base, folder, **{"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, **options})
    recipe = {name.removeprefix("--"): yaml.safe_load(value) for name, value in zip(own[::2], own[1::2], strict=True)}
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({name: value for name, value in recipe.items() if name != "output_dir"}))
    asked = ("--parsable", f"--output={folder.with_suffix('.txt')}", "--gpus-per-node=2", "--cpus-per-task=2")
    environment = {**os.environ, "ENGINE": engine, "DS_ACCELERATOR": "cpu"}
    command = ["sbatch", *asked, SCRIPT, path, folder, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def end_of(job, folder):
    until(lambda: state(job) in ENDED, 300)
    return state(job), folder.with_suffix(".txt").read_text()


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "ep"])
def test_a_run_over_two_nodes_is_that_of_one_process(base, alone, tmp_path, engine):
    folder = tmp_path / "run"
    ended, printed = end_of(sent(base, folder, engine), folder)
    assert ended == "COMPLETED", printed[-3000:]
    found, wanted = Left(folder), Left(alone)
    assert (found.usage == wanted.usage).all()
    assert all((found.state[key] == value).all() for key, value in wanted.state.items())
    assert (found.losses - wanted.losses).abs().max() < TOLERANCE
    assert difference(found.result, wanted.result) < TOLERANCE


def test_control_another_rate_is_another_run(base, alone, tmp_path):
    folder = tmp_path / "run"
    ended, printed = end_of(sent(base, folder, "ddp", learning_rate=4e-3), folder)
    assert ended == "COMPLETED", printed[-3000:]
    assert difference(Left(folder).result, Left(alone).result) > 3 * TOLERANCE


def test_a_run_saves_before_its_time_is_over_and_goes_on(base, tmp_path):
    """Slurm sends SIGTERM to the steps of a job some minutes before its end."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    options = {"num_train_epochs": 2, "save_steps": 1000}
    assert end_of(sent(base, whole, "ddp", **options), whole)[0] == "COMPLETED"
    job = sent(base, folder, "ddp", **options)
    until(lambda: (folder / "metrics.jsonl").exists(), 120)
    said("scancel", "--signal=TERM", job)
    assert end_of(job, folder)[0] == "FAILED"
    assert not (folder / "model").exists()
    assert list(folder.glob("*/checkpoint-*"))
    assert not list(unfinished_in(folder))
    ended, printed = end_of(sent(base, folder, "ddp", "--resume", **options), folder)
    assert ended == "COMPLETED", printed[-3000:]
    found, wanted = Left(folder), Left(whole)
    assert (found.usage == wanted.usage).all()
    assert (found.losses == wanted.losses).all()
    assert difference(found.result, wanted.result) == 0


def test_a_study_over_the_cluster_is_that_of_processes(base, expected, tmp_path):
    root = tmp_path / "study"
    run_study(small_study(base, root), root, executor="slurm", executor_options=OPTIONS)
    assert results(root) == results(expected)


def test_a_cancelled_job_is_named_and_runs_again(base, expected, tmp_path):
    root = tmp_path / "study"
    path, record = small_study(base, root), root / "jobs" / "jobs.json"
    cancel = f"""
import json, pathlib, subprocess, time
record = pathlib.Path({str(record)!r})
while not (record.exists() and {NAMES[1]!r} in json.loads(record.read_text())["ids"]): time.sleep(0.1)
subprocess.run(["scancel", json.loads(record.read_text())["ids"][{NAMES[1]!r}]], check=True)
"""
    canceller = subprocess.Popen([sys.executable, "-c", cancel])
    with pytest.raises(FailedRunError, match="1 of 2 runs failed"):
        run_study(path, root, executor="slurm", executor_options=OPTIONS)
    assert canceller.wait() == 0
    run_study(path, root, executor="slurm", executor_options=OPTIONS)
    assert results(root) == results(expected)


def test_jobs_outlive_a_killed_study(base, expected, tmp_path):
    root = tmp_path / "study"
    path, record = small_study(base, root), root / "jobs" / "jobs.json"
    asked = [f"{name}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "expert_condenser", "study", str(path), "--output_dir", str(root)]
    study = subprocess.Popen([*command, "--executor", "slurm", "--executor_options", *asked], stdout=subprocess.DEVNULL)
    until(lambda: record.exists() and len(read(record)["ids"]) == 2, 120)
    study.send_signal(signal.SIGKILL)
    study.wait()
    before = read(record)["ids"]
    run_study(path, root, executor="slurm", executor_options=OPTIONS)
    assert results(root) == results(expected)
    jobs = said("sacct", "-X", "-n", "-P", "-o", "JobID").split()
    assert max(map(int, jobs)) == max(map(int, before.values())), "no run was sent twice"
