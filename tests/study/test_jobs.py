"""A study as jobs of a cluster: what they leave is what processes of one machine leave, and no job is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from expert_condenser.cli.main import main
from expert_condenser.errors import DataError, EvaluationError, FailedRunError
from expert_condenser.evaluation.results import RESULTS
from expert_condenser.ownership import LOCK, Owner, end_with, start_of
from expert_condenser.study.jobs import RECORD, Jobs, JobsRecord, _is_queued, _unlock, run_job
from expert_condenser.study.plan import Cell
from expert_condenser.study.run import run_study
from tests.runs import make_base, read
from tests.study import slurm
from tests.study.test_folder import ENVIRONMENT, ROOT, running, small_study
from tests.study.test_run import study_file

SLURM = {"timeout_min": 60, "partition": "gpu"}
NAMES = ("base", "runs/sft/seed1")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory):
    """The study as processes of this machine."""
    root = tmp_path_factory.mktemp("processes")
    run_study(small_study(base, root), root)
    return root


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands, and this package for the processes that they start."""
    folder = tmp_path / "bin"
    slurm.install(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    return folder


def results(root):
    """What the runs found, without the names of their folders and the times that they took."""
    return {name: {k: v for k, v in read(root / name / RESULTS).items() if k in KEPT} for name in NAMES}


KEPT = ("tasks", "weights", "generation", "measures", "format_version")


def test_an_executor_is_one_of_two(tmp_path):
    with pytest.raises(EvaluationError, match="an executor is one of local, slurm; got 'flux'"):
        Jobs("flux", {}, tmp_path)


def test_a_job_of_slurm_has_a_time_limit(tmp_path, cluster):
    with pytest.raises(EvaluationError, match="a job of Slurm has a time limit"):
        Jobs("slurm", {"partition": "gpu"}, tmp_path)
    assert Jobs("slurm", SLURM, tmp_path).kind == "slurm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**SLURM, "partitoin": "gpu"}, "Unknown argument 'partitoin' for executor 'slurm'"),
        ({"timeout_min": "long"}, '"timeout_min" expected type'),
    ],
)
def test_a_wrong_option_comes_before_any_run(tmp_path, cluster, options, message):
    with pytest.raises(EvaluationError, match=message):
        Jobs("slurm", options, tmp_path)


def test_no_cluster_is_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="are you indeed on a slurm cluster"):
        Jobs("slurm", SLURM, tmp_path)


def test_options_are_those_of_the_file_and_the_command_s_over_them(base, tmp_path, monkeypatch):
    asked = []

    def made(kind, options, root):
        asked.append((kind, options))
        raise EvaluationError("enough")

    monkeypatch.setattr("expert_condenser.study.run.Jobs", made)
    path = study_file(base, executor_options={"timeout_min": 30, "partition": "gpu"})
    words = ["study", str(path), "--output_dir", str(tmp_path / "out"), "--executor", "slurm"]
    assert main([*words, "--executor-options", "timeout_min=60", "gpus_per_node=1"]) == 2
    assert asked == [("slurm", {"timeout_min": 60, "partition": "gpu", "gpus_per_node": 1})]


def test_options_without_an_executor_are_refused(base, tmp_path, capsys):
    words = ["study", str(study_file(base)), "--output_dir", str(tmp_path / "out"), "--executor_options"]
    assert main([*words, "timeout_min=60"]) == 2
    assert "executor_options are of an executor" in capsys.readouterr().err
    assert main([*words, "60"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_record_of_another_format_is_refused(tmp_path):
    (tmp_path / "jobs.json").write_text('{"format_version": 2}')
    with pytest.raises(DataError, match="format 1"):
        JobsRecord.read(tmp_path / "jobs.json")
    assert JobsRecord.read(tmp_path / "none.json").ids == {}


@pytest.mark.parametrize(("host", "stays"), [("elsewhere", False), (socket.gethostname(), True)])
def test_only_a_lock_of_another_machine_is_an_ended_job_s(tmp_path, host, stays):
    (tmp_path / LOCK).write_text(json.dumps({**vars(Owner.here("study")), "host": host}))
    _unlock(tmp_path)
    assert (tmp_path / LOCK).exists() is stays


def test_whether_a_job_runs_is_never_guessed(tmp_path, cluster):
    (cluster / "squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    with pytest.raises(EvaluationError, match="squeue says whether job 7 still runs; it failed: no controller"):
        _is_queued("7")
    slurm.install(tmp_path / "again")
    shutil.copy(tmp_path / "again" / "squeue", cluster / "squeue")
    assert not _is_queued("7")
    (tmp_path / "again" / "7.pid").write_text(str(os.getpid()))
    assert _is_queued("7")


@pytest.mark.parametrize(("own", "works"), [("11", True), ("10", False), ("12", True)])
def test_of_two_jobs_of_a_run_the_newest_works(tmp_path, monkeypatch, own, works, caplog):
    """The study's parent was killed before it noted one, or the cluster did not know the job when it was asked."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / RECORD).write_text('{"ids": {"runs/sft/seed1": "11"}, "format_version": 1}')
    ran = []
    monkeypatch.setattr("expert_condenser.study.jobs.run_cell", lambda *_: ran.append(own))
    monkeypatch.setattr("expert_condenser.study.jobs.signal.signal", lambda *_: None)
    monkeypatch.setenv("SLURM_JOB_ID", own)
    cell = Cell(None, "sft", 1, {}, {})
    assert run_job(cell, tmp_path, None, None, None) is works
    assert bool(ran) is works
    assert ("is the run of job 11" in caplog.text) is not works


def test_a_process_ends_with_another():
    other = subprocess.Popen(["sleep", "60"])
    owner = Owner(**{**vars(Owner.here("study")), "pid": other.pid, "started": start_of(other.pid)})
    pid = os.fork()
    if pid == 0:
        end_with(owner, every=0.01)
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "control"
    finally:
        other.kill()
        other.wait()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.slow
def test_jobs_of_this_machine_leave_what_processes_leave(base, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    root = tmp_path / "jobs"
    shown = []
    path = small_study(base, root)
    run_study(path, root, show=lambda progress, cell: shown.append(progress.summary()), executor="local")
    assert results(root) == results(expected)
    assert shown[-1].startswith("2 of 2 runs done")
    (root / NAMES[1] / RESULTS).write_text("{}")
    assert read(root / NAMES[1] / RESULTS) != read(expected / NAMES[1] / RESULTS), "control"
    assert not list(root.rglob("*.log"))
    assert not list(root.rglob(LOCK))


@pytest.mark.slow
def test_a_run_whose_job_was_killed_runs_again(base, expected, tmp_path, cluster):
    """The study goes on without it, and names it; the next start runs it alone."""
    root = tmp_path / "study"
    path = small_study(base, root)

    def kill():
        while not (root / NAMES[1] / "run.json").exists():
            time.sleep(0.01)
        os.killpg(slurm.pid_of(cluster, read(root / "jobs" / "jobs.json")["ids"][NAMES[1]]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(FailedRunError, match="1 of 2 runs failed"):
        run_study(path, root, executor="slurm", executor_options=SLURM)
    thread.join()
    assert not (root / NAMES[1] / RESULTS).exists()
    run_study(path, root, executor="slurm", executor_options=SLURM)
    assert results(root) == results(expected)
    assert len(list(cluster.glob("*.pid"))) == 3, "the base was not asked again"


@pytest.mark.slow
def test_jobs_outlive_a_killed_study_and_the_next_start_waits_for_them(base, expected, tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("ACCOUNTING_IS_LATE", "")
    root = tmp_path / "study"
    path = small_study(base, root)
    command = [sys.executable, "-m", "expert_condenser", "study", str(path), "--output_dir", str(root)]
    command += ["--executor", "slurm", "--executor_options", "timeout_min=60", "--workers", "2"]
    study = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    record = root / "jobs" / "jobs.json"
    for _ in range(600):
        if record.exists() and len(read(record)["ids"]) == 2:
            break
        time.sleep(0.1)
    study.kill()
    study.wait()
    run_study(path, root, executor="slurm", executor_options=SLURM)
    assert results(root) == results(expected)
    assert len(list(cluster.glob("*.pid"))) == 2, "no run was sent twice"


@pytest.mark.slow
def test_a_study_that_is_ended_cancels_its_jobs(base, tmp_path, cluster):
    root = tmp_path / "study"
    options = {**yaml.safe_load(study_file(base).read_text())["options"], "num_train_epochs": 1000.0}
    path = small_study(base, root, options={**options, "logging_steps": 1})
    command = [sys.executable, "-m", "expert_condenser", "study", str(path), "--output_dir", str(root)]
    command += ["--executor", "slurm", "--executor_options", "timeout_min=60"]
    study = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        owner = running(root)
        assert owner.is_alive()
    finally:
        study.terminate()
    assert study.wait() == 143
    assert not owner.is_alive()
    assert not list(root.rglob(LOCK))
