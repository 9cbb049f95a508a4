"""`condenser study FILE.yaml --output_dir DIR [--workers N]`."""

import argparse
from pathlib import Path

from expert_condenser.study.run import run_study


def study(arguments: list[str]) -> None:
    """Run a study: a grid of methods, seeds and options on one base; what is done already is skipped."""
    parser = argparse.ArgumentParser(prog="condenser study", description=study.__doc__)
    parser.add_argument("file", type=Path, help="the study's YAML file")
    parser.add_argument("--output_dir", type=Path, required=True, help="where its runs are, or go on")
    parser.add_argument("--workers", type=int, default=None, help="runs at a time: one per GPU, or one, by default")
    options = parser.parse_args(arguments)
    run_study(options.file, options.output_dir, options.workers)
