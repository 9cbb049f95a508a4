"""`condenser compare RUN ...`: which method won, against a baseline, with paired statistics over seeds and items."""

import argparse
from pathlib import Path
from typing import Any

from expert_condenser.cli.console import say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.comparison.compare import BASELINE, UNITS, compare_both, compare_runs
from expert_condenser.comparison.runs import KINDS, read_design
from expert_condenser.comparison.simulation import calibration_table
from expert_condenser.comparison.statistics import RESAMPLES, check_level
from expert_condenser.comparison.tables import FORMATS, plain_table, render
from expert_condenser.errors import EvaluationError
from expert_condenser.files import write_text


def run(words: list[str]) -> None:
    """Compare finished and evaluated runs, paired by seed and item; or check the statistics on simulated studies."""
    options = _read(words)
    if options.calibrate is not None:
        title = f"{options.calibrate} simulated studies of each design, alpha = {options.alpha:g}"
        text = plain_table(title, *calibration_table(options.calibrate, alpha=options.alpha), options.format)
    else:
        text = render(_report(options), options.format)
    if options.out is None:
        print(text)
    else:
        write_text(options.out, text + "\n")
        say_result(options.out)


def _read(words: list[str]) -> argparse.Namespace:
    options = _parser().read(words)
    if options.json is not None:
        if options.json != "-" and options.out is not None:
            raise EvaluationError("--json FILE and --out FILE both name the file; leave one out")
        options.format = "json"
        options.out = options.out if options.json == "-" else Path(options.json)
    check_level(options.alpha, options.resamples)
    if options.out is not None and options.out.is_dir():
        raise EvaluationError(f"--out is a file; got the directory {options.out}")
    if options.out is not None and not options.out.parent.is_dir():
        raise EvaluationError(f"--out is written into a directory that exists; there is no {options.out.parent}")
    if options.calibrate is not None and (options.calibrate < 1 or options.runs):
        raise EvaluationError("--calibrate takes a number of studies, at least 1, and no runs")
    return options


def _report(options: argparse.Namespace) -> dict[str, Any]:
    groups = {}
    for word in options.group:
        name, _, tasks = word.partition("=")
        if not name or not tasks or name in groups:
            raise EvaluationError(f"--group is NAME=task,task,..., every name once; got {word!r}")
        groups[name] = _names(tasks)
    tasks = _names(options.tasks) if options.tasks is not None else None
    design = read_design(options.runs, allow=_names(options.allow), tasks=tasks)
    terms = {"baseline": options.baseline, "alpha": options.alpha, "resamples": options.resamples}
    if options.metric is None:
        return compare_both(design, groups=groups, **terms)
    return compare_runs(design, metric=options.metric, groups=groups, **terms)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> Parser:
    parser = Parser("compare", "Compare finished and evaluated runs, paired by seed and item.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directory with run.json and results.json")
    parser.add_argument("--baseline", help=f"label of the arm to compare with; default: {BASELINE}, or the first arm")
    parser.add_argument("--tasks", help="names with commas; default: all that every run has")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=A,B", help="a row for the mean of tasks")
    parser.add_argument("--metric", choices=list(UNITS), help="one of them alone; default: both")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of tests; intervals are of 1 - alpha")
    parser.add_argument(
        "--allow", default="", metavar="KIND,...", help=f"compare runs that differ in: {', '.join(KINDS)}"
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap")
    parser.add_argument("--calibrate", type=int, metavar="N", help="no runs: error rates in N simulated studies")
    parser.add_argument("--format", choices=list(FORMATS), default="terminal")
    parser.shared("out", help="write there instead of printing")
    parser.shared("json", help="the report as JSON, as --format json")
    return parser
