"""The committed curves of pruning, and the table of their page."""

import importlib.util
import json
from pathlib import Path

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
