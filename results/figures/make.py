"""Draws every figure of `condenser analyze`: `make figures`, or `python results/figures/make.py --runs DIR`.

The embedded base is tuned by three methods as in `condenser demo` (three runs of about a CPU-minute, kept in --runs and
not made again), and each analysis is one command, which its JSON repeats. --usage names a folder of usage records of
another model; each of them is a task.
"""

import argparse
import sys
from pathlib import Path

from expert_condenser.cli.demo import ARMS
from expert_condenser.cli.main import main
from expert_condenser.testbed import finetune_recipe_path

TASK = "testbed:fact_pairs"
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
            words = ["--config", str(finetune_recipe_path()), "--output_dir", str(place), *options, *short]
            condenser("train", *words, *(["--resume", "true"] if place.exists() else []))
        found.append(f"{name}={place}")
    return found


def condenser(*words: str) -> None:
    """One command; ends the script where it fails."""
    if status := main(list(words)):
        sys.exit(status)


def draw(runs: list[str], out: Path, limit: int, usage: Path | None) -> None:
    """Every analysis."""

    def analyze(what: str, *words: str, data: str | None = TASK, to: str = "testbed") -> None:
        rows = [] if data is None else ["--data", data, "--limit", str(limit)]
        condenser("analyze", what, *words, *rows, "--output_dir", str(out / to))

    models = ["--model", "base=testbed", "--tuned", *runs]
    last = runs[-1]  # the condenser run
    analyze("usage", *models)
    analyze("overlap", "--model", "base=testbed", "--data", TASK, OLD, "--limit", str(limit), data=None)
    analyze("divergence", *models)
    analyze("correlation", *models)
    analyze("ablation", "--model", last)
    analyze("gradients", "--model", "base=testbed", "--batch_size", "4")
    analyze("dynamics", "--runs", *runs, data=None)
    analyze("super", *models)
    prune = ["--criteria", "activation,gate_mass,weight_norm,reap,reconstruction", "--skip"]
    analyze("prune", "--model", "base=testbed", *prune, data=OLD, to="prune_base")
    one = ["--model", last, "--scopes", "layer"]
    analyze("prune", *one, "--criteria", "activation,weight_norm,reap,bias", to="prune_tuned")
    listed = str(out / "prune_base" / "experts.jsonl")
    analyze("prune", *one, "--experts", listed, to="prune_tuned_by_base")
    if usage is not None:
        files = [str(path) for path in sorted(usage.glob("*.json"))]
        analyze("usage", "--usage", *files, data=None, to="deepseek_v2_lite")
        analyze("overlap", "--usage", *files, data=None, to="deepseek_v2_lite")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="where the runs are, or go")
    parser.add_argument("--out", type=Path, default=Path("results/figures"))
    parser.add_argument("--usage", type=Path, help="a folder of usage records")
    parser.add_argument("--limit", type=int, default=128, help="rows to look at")
    parser.add_argument("--max_steps", type=int, help="optimizer steps of each phase of the runs")
    options = parser.parse_args()
    draw(tuned(options.runs, options.max_steps), options.out, options.limit, options.usage)
