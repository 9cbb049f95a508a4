"""The committed tables are those that the committed raw files give, to the digit."""

import re
import shutil
from pathlib import Path

import pytest

from expert_condenser.study.plan import best_options
from expert_condenser.study.tables import COMPARISON, TABLES, write_tables

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/study")
STUDIES = sorted(path.parent.name for path in (ROOT / RESULTS).glob(f"*/{TABLES}"))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The raw files alone, at the same relative place."""
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS, ignore=shutil.ignore_patterns(TABLES, COMPARISON, "*.png"))
    monkeypatch.chdir(tmp_path)
    return RESULTS


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_tables_from_raw_files(copied, name):
    write_tables(copied / name)
    for file in (TABLES, COMPARISON):
        assert (copied / name / file).read_text() == (ROOT / RESULTS / name / file).read_text()


def test_another_raw_number_gives_another_table(copied):
    path = next((copied / "ladder" / "runs" / "condenser" / "seed1").glob("results.json"))
    text = path.read_text()
    path.write_text(re.sub(r'"nll": [0-9.e-]+', '"nll": 3.5', text))
    write_tables(copied / "ladder")
    assert (copied / "ladder" / TABLES).read_text() != (ROOT / RESULTS / "ladder" / TABLES).read_text()


@pytest.mark.parametrize(("place", "path"), [("/", "whole"), (RESULTS / "long_tail", ".")])
def test_tables_from_anywhere(copied, monkeypatch, place, path):
    """`long_tail` has a base beside its file, which its runs were given relative to where they ran."""
    folder = (copied / "long_tail").resolve()
    monkeypatch.chdir(place)
    write_tables(folder if path == "whole" else Path(path))
    for file in (TABLES, COMPARISON):
        assert (folder / file).read_text() == (ROOT / RESULTS / "long_tail" / file).read_text()


def test_there_is_something_to_compare():
    assert {"ladder", "ablations", "long_tail"} <= set(STUDIES)


def test_the_learning_rates_of_the_ladder_are_those_of_the_sweep(copied):
    chosen = best_options(copied / "sweep")
    assert chosen["sft"] == chosen["condenser"] == {"learning_rate": 1.2e-3}
    assert chosen["bias_only"] == {"learning_rate": 2.4e-3}
    assert best_options(copied / "sweep_esft") == {"esft_gate": {"learning_rate": 1.92e-2}}
