"""The demo takes the place of an earlier demo, once there is a new one, and of nothing else."""

import json
from pathlib import Path

import pytest

from expert_condenser.clearing import MARKER, Marker
from expert_condenser.cli import demo
from expert_condenser.cli.main import main
from expert_condenser.training import run as run_module


@pytest.fixture
def quick(monkeypatch):
    """A demo that trains nothing; a run that was begun is asked for by `fails`."""
    fails = []

    def train(recipe, callbacks=()):
        if fails:
            raise RuntimeError
        folder = Path(recipe.trainer.output_dir)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("new")
        return folder / "model"

    def measure(path, place, count):
        place.mkdir(exist_ok=True)
        return {"accuracy": {}}

    monkeypatch.setattr(run_module, "train", train)
    monkeypatch.setattr(demo, "_measure", measure)
    monkeypatch.setattr(demo, "_table", lambda *_: "a table")
    monkeypatch.setattr(demo, "_write", lambda outcomes, table, folder: (folder / "table.txt").write_text("new"))
    return fails


def earlier(folder, marked=True):
    """What an earlier demo left."""
    for name in ("base", "sft-seed1", "sft_in_two_phases-seed1", "condenser-seed1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "results.json").write_text("old")
    for name in ("table.txt", "summary.json", "usage.png"):
        (folder / name).write_text("old")
    if marked:
        Marker("demo").write(folder)
    return folder


def texts(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != MARKER}


@pytest.mark.parametrize("marked", [True, False])
def test_an_earlier_demo_is_replaced_also_one_without_a_marker(quick, tmp_path, marked):
    folder = earlier(tmp_path / "demo", marked)
    assert main(["demo", "--output_dir", str(folder)]) == 0
    runs = [f"{name}-seed1/run.json" for name in ("condenser", "sft", "sft_in_two_phases")]
    assert texts(folder) == dict.fromkeys([*runs, "table.txt"], "new")
    assert Marker.read(folder) == Marker("demo")
    assert list(tmp_path.iterdir()) == [folder]


def test_one_that_fails_leaves_the_earlier_one(quick, tmp_path):
    folder = earlier(tmp_path / "demo")
    before = texts(folder)
    quick.append("fails")
    with pytest.raises(RuntimeError):
        main(["demo", "--output_dir", str(folder)])
    assert texts(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def as_study(folder):
    (folder / "base").mkdir()
    (folder / "base" / "results.json").write_text("{}")
    (folder / "study.yaml").write_text("base: testbed")
    (folder / "runs" / "sft" / "seed1").mkdir(parents=True)


def as_marked_study(folder):
    as_study(folder)
    Marker("study").write(folder)


def as_demo_with_a_run_of_mine(folder):
    earlier(folder / "x").rename(folder / "demo")
    for path in (folder / "demo").iterdir():
        path.rename(folder / path.name)
    (folder / "demo").rmdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "run.json").write_text("{}")


def as_anything(folder):
    (folder / "notes.txt").write_text("mine")


@pytest.mark.parametrize("make", [as_study, as_marked_study, as_demo_with_a_run_of_mine, as_anything])
def test_a_study_or_anything_else_is_not_deleted(quick, tmp_path, make, capsys):
    make(tmp_path)
    before = texts(tmp_path)
    assert main(["demo", "--output_dir", str(tmp_path)]) == 2
    assert "condenser demo: " in capsys.readouterr().err
    assert texts(tmp_path) == before


def test_the_folder_of_demos_is_that_of_the_words(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["demo", "--output_dir", "~/my demos/one"]) == 0
    assert json.loads((tmp_path / "my demos" / "one" / MARKER).read_text())["kind"] == "demo"
