"""A study's folder: one process runs it, its runs do not outlive it, and what it reads is not deleted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from expert_condenser.clearing import Marker
from expert_condenser.errors import FolderError
from expert_condenser.ownership import LOCK, Owner, start_of
from expert_condenser.study import run as run_module
from expert_condenser.study.cells import recipe_of
from expert_condenser.study.folder import STUDY_KIND
from expert_condenser.study.plan import read_study
from expert_condenser.study.run import run_study
from expert_condenser.study.worker import _run, _train
from expert_condenser.training.run import train
from expert_condenser.workfolder import WorkFolder
from tests.runs import make_base, read
from tests.study.test_run import study_file

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
FEW = {"testbed:gcd": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def small_study(made, root, **changes):
    """A study in its own folder, with one run."""
    root.mkdir(exist_ok=True)
    path = study_file(made, **{"seeds": [1], "arms": {"sft": {"method": "sft"}}, "evaluate": {"tasks": FEW}, **changes})
    return Path(shutil.move(path, root / "study.yaml"))


def files(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def no_runs(monkeypatch):
    monkeypatch.setattr(run_module, "_run_all", lambda *_: pytest.fail("a run was started"))


def test_a_second_study_in_the_folder_is_refused_and_runs_nothing(base, tmp_path, no_runs):
    path = small_study(base, tmp_path / "study")
    other = subprocess.Popen(["sleep", "60"])
    try:
        owner = {**vars(Owner.here("study")), "pid": other.pid, "started": start_of(other.pid)}
        (tmp_path / "study" / LOCK).write_text(json.dumps(owner))
        with pytest.raises(FolderError, match=rf"`study`, process {other.pid} on"):
            run_study(path, tmp_path / "study")
    finally:
        other.kill()
        other.wait()


def test_a_base_in_the_folder_of_its_results_is_kept(base, tmp_path):
    root = tmp_path / "study"
    path = small_study(base, root, base="./base/model")
    shutil.copytree(base / "model", root / "base" / "model")
    before = files(root / "base" / "model")
    _run(read_study(path).base_cell, root)
    assert (root / "base" / "results.json").exists()
    assert not (root / "base" / "items.jsonl").exists()
    assert files(root / "base" / "model") == before


@pytest.mark.parametrize("where", ["./base", "./runs/sft/seed1", "./runs/sft/seed1/model"])
def test_a_base_that_its_runs_would_delete_is_refused(base, tmp_path, no_runs, where):
    root = tmp_path / "study"
    path = small_study(base, root, base=where)
    shutil.copytree(base / "model", root / where)
    before = files(root / where)
    with pytest.raises(FolderError, match=r"a study deletes what its runs do not keep, and base, .* lies in"):
        run_study(path, root)
    assert files(root / where) == before


def test_a_base_beside_its_runs_is_no_mistake(base, tmp_path, monkeypatch):
    root = tmp_path / "study"
    path = small_study(base, root, base="./models/tiny")
    shutil.copytree(base / "model", root / "models" / "tiny")
    started = []
    monkeypatch.setattr(run_module, "_run_all", lambda progress, devices, show: started.extend(progress.waiting()))
    run_study(path, root)
    assert [cell.label for cell in started] == ["base", "sft"]
    assert Marker.read(root) == Marker("study")
    assert not (root / LOCK).exists()


def test_a_finished_run_without_its_cost_is_not_trained_again(base, tmp_path):
    """Killed between the two: what is there is the result, and no checkpoint is."""
    root = tmp_path / "study"
    (cell,) = read_study(small_study(base, root)).cells()
    recipe = recipe_of(cell, root)
    train(recipe)
    before = files(root / cell.folder / "train")
    assert before, "control"
    _train(cell, recipe)
    assert files(root / cell.folder / "train") == before
    assert read(root / cell.folder / "run.json")["cost"]["resumed"] is True


def test_a_folder_of_a_run_is_no_study(base, tmp_path, no_runs):
    root = tmp_path / "study"
    path = small_study(base, root)
    Marker("train").write(root)
    with pytest.raises(FolderError, match="is a folder of `train`, and not of `study`"):
        run_study(path, root)
    with WorkFolder(tmp_path / "new", STUDY_KIND) as place:
        place.mark()
    assert Marker.read(tmp_path / "new") == Marker("study")


def running(root):
    """The process of the run, once it trains."""
    for _ in range(3000):
        for lock in root.glob("runs/*/*/" + LOCK):
            if (lock.parent / "metrics.jsonl").exists():
                return Owner.read(lock)
        time.sleep(0.1)
    raise AssertionError("no run has begun")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_study_that_ends_takes_its_runs_along(base, tmp_path, number):
    root = tmp_path / "study"
    options = {**yaml.safe_load(study_file(base).read_text())["options"], "num_train_epochs": 1000.0}
    path = small_study(base, root, options={**options, "logging_steps": 1})
    command = [sys.executable, "-m", "expert_condenser", "study", str(path), "--output_dir", str(root)]
    study = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        owner = running(root)
        assert owner.is_alive()
        assert owner.pid != study.pid
        study.send_signal(number)
        code = study.wait(timeout=60)
    except (AssertionError, subprocess.TimeoutExpired):
        study.terminate()  # it would train on behind all other tests
        raise
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    until = time.monotonic() + 30
    while owner.is_alive() and time.monotonic() < until:
        time.sleep(0.1)
    assert not owner.is_alive()
    assert not list(root.glob("runs/*/*/" + LOCK))
    assert (root / LOCK).exists() == (number == signal.SIGKILL)
