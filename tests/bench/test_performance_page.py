"""docs/performance.md holds the tables of the committed reports, to the digit."""

import json
from pathlib import Path

import pytest

from expert_condenser.bench.tables import markdown
from expert_condenser.cli.bench import read_report

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = sorted((DOCS.parent / "results" / "performance").glob("*.json"))


def test_there_are_reports():
    assert len(REPORTS) >= 10


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_the_page_has_the_table_of_every_report(path):
    assert markdown(read_report(path)) in (DOCS / "performance.md").read_text()


def test_the_page_has_the_figures_of_two_processes():
    page = (DOCS / "performance.md").read_text()
    report = json.loads((DOCS.parent / "results" / "performance" / "processes" / "train-testbed.json").read_text())
    for figure in (f"{report['one_process_tokens_per_s']:,.0f} tokens/s", f"{report['tokens_per_s']:,.0f} tokens/s"):
        assert figure in page
    assert f"ratio is {report['ratio']:.2f}" in page
    assert f"ratio is {report['ratio'] + 0.01:.2f}" not in page, "control"
