"""`condenser report RUN ... --out FILE`: one run, a comparison or a study as one page that needs no network."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from expert_condenser.cli.console import say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import EvaluationError
from expert_condenser.files import write_text

if TYPE_CHECKING:
    from expert_condenser.report.page.report import Report

DESCRIPTION = (
    "Runs, or the folder of one study, as one HTML file: the answer, the comparison, what every expert did, the tokens "
    "that it took, and how to make it again."
)


def run(words: list[str]) -> None:
    """Read everything, and only then write the page."""
    options = _read(words)
    from expert_condenser.report.page.html import check_place, page_of, plotly_js  # once the words are right: torch

    library = plotly_js()
    check_place(options.out)
    from expert_condenser.report.page.analyses import read_analyses

    analyses = read_analyses(options.analyses)
    write_text(options.out, page_of(_report(options), analyses, library))
    say_result(options.out)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("report", DESCRIPTION)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or the folder of one study")
    parser.shared("out", required=True, help="the page; a page that is there is replaced")
    parser.add_argument("--base", type=Path, metavar="DIR", help="of runs: folder of the results of their base")
    parser.add_argument("--learn", default="", metavar="TASKS", help="of runs: what was to be learnt, with commas")
    parser.add_argument("--baseline", help="of runs: label of the arm to compare with, as in `condenser compare`")
    parser.add_argument("--allow", default="", metavar="KIND,...", help="of runs: as in `condenser compare`")
    parser.add_argument(
        "--analyses", nargs="+", type=Path, default=[], metavar="DIR", help="folders of `condenser analyze` to show too"
    )
    return parser.read(words)


def _report(options: argparse.Namespace) -> "Report":
    from expert_condenser.report.page.comparisons import Terms, report_of_runs
    from expert_condenser.report.page.studies import STUDY, report_of_study

    studies = [folder for folder in options.runs if (folder / STUDY).is_file()]
    if not studies:
        learn, allow = (tuple(filter(None, text.split(","))) for text in (options.learn, options.allow))
        return report_of_runs(options.runs, Terms(options.base, learn, options.baseline, allow))
    if len(options.runs) > 1:
        raise EvaluationError(f"a report is of runs, or of one study; got {', '.join(map(str, options.runs))}")
    if given := [f"--{name}" for name in ("base", "learn", "baseline", "allow") if getattr(options, name)]:
        raise EvaluationError(f"a study's file says how its runs are compared; leave {', '.join(given)} out")
    return report_of_study(options.runs[0])
