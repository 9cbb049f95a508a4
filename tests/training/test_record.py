"""Whose commit `run.json` names, and that it is written whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import expert_condenser
from expert_condenser.training import record
from expert_condenser.training.record import RunRecord, package_commit

PACKAGE = Path(expert_condenser.__file__).parent


def git(folder, *words):
    identity = {f"GIT_{who}_{what}": "someone" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *words], cwd=folder, env={**os.environ, **identity}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a git repository, seen from inside of another one, where the user works."""
    for name in ("package", "users"):
        (tmp_path / name / "training").mkdir(parents=True)
        git(tmp_path / name, "init", "-q")
        (tmp_path / name / "training" / "record.py").write_text(f"# {name}\n")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-q", "-m", name)
    monkeypatch.chdir(tmp_path / "users")
    monkeypatch.setattr(record, "__file__", str(tmp_path / "package" / "training" / "record.py"))
    return tmp_path


def test_the_commit_is_that_of_the_package(package):
    own, users = git(package / "package", "rev-parse", "HEAD"), git(package / "users", "rev-parse", "HEAD")
    assert package_commit() == own != users


def test_changed_files_are_said(package):
    (package / "package" / "__init__.py").write_text("# another file\n")
    assert package_commit() == f"{git(package / 'package', 'rev-parse', 'HEAD')}-dirty"


def test_a_package_below_somebodys_repository_is_not_of_its_commit(package, monkeypatch):
    installed = package / "users" / "site-packages" / "training" / "record.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("# installed, not tracked\n")
    monkeypatch.setattr(record, "__file__", str(installed))
    assert package_commit() is None
    git(package / "users", "add", ".")
    git(package / "users", "commit", "-q", "-m", "control: tracked")
    assert package_commit() == git(package / "users", "rev-parse", "HEAD")


def test_a_record_goes_to_disk_and_back(tmp_path):
    begun = RunRecord.begin("sft", {"seed": 1})
    done = begun.with_phase("train", steps=3, tokens=40, seconds=1.26).closed()
    done.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == done
    assert (done.steps, done.tokens, done.finished, done.phases["train"]["seconds"]) == (3, 40, True, 1.3)
    assert (begun.steps, begun.finished) == (None, False)


def test_a_record_is_read_without_torch():
    code = (
        "import sys; from expert_condenser.training.record import RunRecord\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'trl')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
