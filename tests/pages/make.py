"""The pages that `check.mjs` opens: `python -m tests.pages.make DIR` writes them, from made runs without a training."""

import sys
import tempfile
from pathlib import Path

from expert_condenser.files import write_json
from expert_condenser.report.page.analyses import Analysis
from expert_condenser.report.page.comparisons import Terms, report_of_runs
from expert_condenser.report.page.html import page_of, plotly_js
from expert_condenser.report.page.report import Report
from expert_condenser.report.page.studies import report_of_study
from expert_condenser.watch.look import Watcher
from expert_condenser.watch.page import page
from tests.report.made import OLD, TASK, make_run
from tests.study.test_fronts import allowed, make, points
from tests.watch import folders as watch_folders

EVIL = "</script><img src=x onerror='window.injected=1'><b>b</b>"
ARMS = {"sft": "sft", "condenser": "condenser", "evil": f"sft {EVIL}"}


def comparison(root: Path) -> Report:
    """Three arms at three seeds; the name of one is markup."""
    runs = [
        make_run(root / f"{name}{seed}", "sft" if name == "evil" else name, seed, arm=arm, correct=_answers(name, seed))
        for name, arm in ARMS.items()
        for seed in (1, 2, 3)
    ]
    return report_of_runs(runs, Terms())


def _answers(name: str, seed: int) -> dict[str, str]:
    right = {"sft": 10, "condenser": 25, "evil": 11}[name] + (seed**2 % 4 if name == "condenser" else seed)
    return {TASK: "1" * right + "0" * (40 - right), OLD: "1" * 40}


def study(root: Path) -> Report:
    """A grid of two arms."""
    root.mkdir()
    return report_of_study(make(root, {"sft": points(), "better": points(-0.3)}, **allowed()))


def large(root: Path) -> Report:
    """64 experts in 27 layers, 200 moments."""
    return report_of_runs([make_run(root, layers=27, experts=64, snapshots=200, tokens=(128,) * 8)], Terms())


def watched(root: Path) -> str:
    """A run that trains, with condensers in its second phase; its name is markup."""
    folder = root / "run <b>b</b>"
    watch_folders.make_run(folder, phases=("sparsify", "condense"))
    write_json(
        folder / "condensers.json", {"layers": [{"layer": 0, "condensers": [1]}, {"layer": 1, "condensers": [2]}]}
    )
    return page(Watcher(folder).look(), 3600)


def main(out: Path) -> None:
    """Write every page."""
    svg = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='300' height='80'/%3E"
    analyses = [Analysis("usage", "condenser analyze usage", svg, "{}")]
    library = plotly_js()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reports = {"comparison": comparison(root), "study": study(root / "study"), "large": large(root / "large")}
        for name, report in reports.items():
            (out / f"{name}.html").write_text(page_of(report, analyses if name == "comparison" else (), library))
        (out / "watch.html").write_text(watched(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
