"""Draws every figure of `condenser analyze`: `make figures`, or `python results/figures/make.py --runs DIR`.

The embedded base is tuned by the three methods of `condenser demo` and by recipe.yaml, which learns (some minutes of a
core each; finished runs are kept in --runs), and each analysis is one command, which its JSON repeats. What is there
already is not made again. README.md is written from the JSON files. --usage names a folder of usage records of another
model; each of them is a task.
"""

import argparse
import sys
from pathlib import Path

from page import write_page  # beside this file

from expert_condenser.cli.demo import ARMS
from expert_condenser.cli.main import main
from expert_condenser.files import read_json

RECIPE = Path(__file__).with_name("recipe.yaml")
TASK = "testbed:fact_mixture"
"""What the runs learn; its held-out items are what models are looked at with."""
OLD = "testbed:chain_sum"
"""A task that the base knew before."""


def tuned(folder: Path, steps: int | None) -> list[str]:
    """The runs, `NAME=FOLDER`; those that are there are finished ones."""
    found = []
    for name, options in ARMS.items():
        place = folder / name.replace(" ", "_")
        if not (place / "model").exists():
            short = [] if steps is None else ["--max_steps", str(steps)]
            words = ["--config", str(RECIPE), "--output_dir", str(place), *options, *short]
            condenser("train", *words, *(["--resume", "true"] if place.exists() else []))
        found.append(f"{name}={place}")
    return found


def condenser(*words: str) -> None:
    """One command; ends the script where it fails."""
    if status := main(list(words)):
        sys.exit(status)


def analyze(what: str, folder: Path, *words: str) -> None:
    """One analysis, unless its file has it already, of the same command and of runs that are older than it."""
    words = ("analyze", what, *words, "--output_dir", str(folder))
    file = folder / f"{what}.json"
    runs = [Path(word.rpartition("=")[2]) / "run.json" for word in words]
    newest = max((run.stat().st_mtime for run in runs if run.exists()), default=0.0)
    if (
        not file.exists()
        or file.stat().st_mtime < newest
        or read_json(file)["command"] != f"condenser {' '.join(words)}"
    ):
        condenser(*words)


def draw(runs: list[str], out: Path, limit: int, usage: Path | None) -> None:
    """Every analysis."""
    place, items = out / "testbed", ["--data", TASK, "--limit", str(limit)]
    models = ["--model", "base=testbed", "--tuned", *runs]
    last = runs[-1]  # the condenser run
    analyze("usage", place, *models, *items)
    analyze("overlap", place, "--model", "base=testbed", "--data", TASK, OLD, "--limit", str(limit))
    analyze("divergence", place, *models, *items)
    analyze("correlation", place, *models, *items)
    analyze("ablation", place, "--model", last, *items)
    analyze("gradients", place, "--model", "base=testbed", "--batch_size", "4", *items)
    analyze("dynamics", place, "--runs", *runs)
    analyze("super", place, *models, *items)
    prune(last, out, max(1, limit // 2))
    if usage is not None:
        files = [str(path) for path in sorted(usage.glob("*.json"))]
        analyze("usage", out / "deepseek_v2_lite", "--usage", *files)
        analyze("overlap", out / "deepseek_v2_lite", "--usage", *files)


def prune(last: str, out: Path, limit: int) -> None:
    """The base on a task that it knew; the last run on what it learnt, by its own list and by the base's."""
    keep = ["--keep", "36,24", "--limit", str(limit)]
    criteria = "activation,gate_mass,weight_norm,reap,reconstruction"
    base = ["--model", "base=testbed", "--data", OLD, "--criteria", criteria, "--draws", "4", "--skip", *keep]
    analyze("prune", out / "prune_base", *base)
    one = ["--model", last, "--data", TASK, "--scopes", "layer", *keep]
    analyze("prune", out / "prune_tuned", *one, "--criteria", "activation,weight_norm,reap,bias")
    analyze("prune", out / "prune_tuned_by_base", *one, "--experts", str(out / "prune_base" / "experts.jsonl"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="where the runs are, or go")
    parser.add_argument("--out", type=Path, default=Path("results/figures"))
    parser.add_argument("--usage", type=Path, help="a folder of usage records")
    parser.add_argument("--limit", type=int, default=240, help="rows to look at; half as many for pruned models")
    parser.add_argument("--max_steps", type=int, help="optimizer steps of each run")
    options = parser.parse_args()
    draw(tuned(options.runs, options.max_steps), options.out, options.limit, options.usage)
    write_page(options.out)
