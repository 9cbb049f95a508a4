"""`condenser study FILE.yaml --output_dir DIR [--workers N]`, and `condenser study tables DIR`."""

import argparse
from pathlib import Path

from expert_condenser.study.tables import best_table, write_tables


def study(arguments: list[str]) -> None:
    """Run a study: a grid of methods, seeds and options on one base; what is done already is skipped.

    `condenser study tables DIR` makes its tables again from the raw files, `condenser study best DIR` says which
    options of its grid won.
    """
    if arguments[:1] == ["tables"] and len(arguments) > 1:
        for folder in arguments[1:]:
            for path in write_tables(Path(folder)):
                print(path)
        return
    if arguments[:1] == ["best"] and len(arguments) == 2:
        print(best_table(Path(arguments[1])))
        return
    parser = argparse.ArgumentParser(prog="condenser study", description=study.__doc__)
    parser.add_argument("file", type=Path, help="the study's YAML file; or `tables DIR ...`, or `best DIR`")
    parser.add_argument("--output_dir", type=Path, required=True, help="where its runs are, or go on")
    parser.add_argument("--workers", type=int, default=None, help="runs at a time: one per GPU, or one, by default")
    options = parser.parse_args(arguments)
    from expert_condenser.study.run import run_study  # loads torch and TRL, which tables do not need

    run_study(options.file, options.output_dir, options.workers)
