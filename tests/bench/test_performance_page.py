"""docs/performance.md holds the tables of the committed reports, to the digit."""

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
