"""The committed curves of pruning and the table of their page; the stages of the real chain."""

import importlib.util
import json
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "results" / "pruning"


def test_the_page_has_the_table_of_the_curves():
    spec = importlib.util.spec_from_file_location("make_pruning", PAGE / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    curves = json.loads((PAGE / "curves.json").read_text())
    assert curves["kept"] == [48, *make.KEEP]
    assert all(len(curves[arm]) == len(make.SEEDS) for arm in make.ARMS)
    table = make.table({arm: curves[arm] for arm in make.ARMS})
    assert table in (PAGE / "README.md").read_text()
    curves["sft"][0]["nll"][0] += 1.0
    assert make.table({arm: curves[arm] for arm in make.ARMS}) != table, "control"


@pytest.fixture
def chain(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PAGE.parent / "real-chain"))
    spec = importlib.util.spec_from_file_location("make_real_chain", PAGE.parent / "real-chain" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make, make.Chain(tmp_path, tmp_path, 8, 4)


def test_wilson_s_interval(chain):
    """5 of 10: 0.2366 to 0.7634; 0 of 4: from 0 to z² / (4 + z²)."""
    make, _ = chain
    assert make.interval(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert make.interval(0.0, 4) == pytest.approx((0.0, 0.489899), abs=1e-5)


def test_a_stage_is_done_once_and_a_broken_one_again(chain, tmp_path):
    _, own = chain
    calls = []

    def broken(folder):
        calls.append("broken")
        (folder / "half").touch()
        raise RuntimeError

    def whole(folder):
        calls.append("whole")
        (folder / "all").touch()

    with pytest.raises(RuntimeError):
        own.once("stage", broken)
    assert not (tmp_path / "stage").exists()
    own.once("stage", whole)
    own.once("stage", whole)
    assert calls == ["broken", "whole"]
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["all"]
