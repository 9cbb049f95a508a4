"""docs/performance.md holds the tables of the committed reports, to the digit."""

import json
from pathlib import Path

import pytest

from expert_condenser.bench.tables import markdown
from expert_condenser.cli.bench import read_report

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = sorted(
    path
    for path in (DOCS.parent / "results" / "performance").rglob("*.json")
    if path.parent.name != "processes" and path.name != "gpu-check.json"
)
GPU = DOCS.parent / "results" / "performance" / "gpu" / "gpu-check.json"


def test_there_are_reports():
    assert len(REPORTS) >= 15


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_page_has_the_table_of_every_report(path):
    assert markdown(read_report(path)) in (DOCS / "performance.md").read_text()


def test_the_page_has_the_figures_of_the_gpu_check():
    page, report = (DOCS / "performance.md").read_text(), json.loads(GPU.read_text())
    assert not report["tiny"]
    assert all(check["passed"] for check in report["checks"].values())
    assert report["device"] in page
    biases, billion = (report["checks"][name]["found"] for name in ("biases", "billion"))
    for figure in (f"{biases['sorted_mm']:.1%} off", f"{biases['grouped_mm']:.0%} off"):
        assert figure in page
    assert f"{billion['planned_over_peak']:.3f}" in page
    assert f"{billion['planned_over_peak'] + 0.001:.3f}" not in page, "control"


def test_the_page_has_the_figures_of_two_processes():
    page = (DOCS / "performance.md").read_text()
    report = json.loads((DOCS.parent / "results" / "performance" / "processes" / "train-testbed.json").read_text())
    for figure in (f"{report['one_process_tokens_per_s']:,.0f} tokens/s", f"{report['tokens_per_s']:,.0f} tokens/s"):
        assert figure in page
    assert f"ratio is {report['ratio']:.2f}" in page
    assert f"ratio is {report['ratio'] + 0.01:.2f}" not in page, "control"
