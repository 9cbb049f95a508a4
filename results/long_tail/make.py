"""Does pruning the long tail hurt more than pruning at random? `make long-tail`, or `python results/long_tail/make.py`.

The models are the base and the runs of results/figures/recipe.yaml in --runs, which are trained if they are not there.
Each is loaded once, its experts are ranked by how often they are chosen on the rows that the runs learn, and it is
asked every task with n experts per layer left: those most chosen by itself, those most chosen by the base, and
random ones. A JSON per model has every item's nll, so that ../long-tail.md is written from the files alone; a
model whose file is there is not asked again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from page import GROUPS, write_page  # beside this file

from expert_condenser.analysis.expert_scores import random_scores, score_experts
from expert_condenser.analysis.pruning import experts_to_remove
from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.analysis.rows import read_rows
from expert_condenser.checkpoint.load import load_model, load_tokenizer, resolve_model
from expert_condenser.cli.console import progress, quiet_libraries
from expert_condenser.cli.demo import ARMS
from expert_condenser.cli.main import main
from expert_condenser.files import read_json, write_json
from expert_condenser.moe.without_experts import under_policy, without_experts

LEARNT = "testbed:fact_mixture"
RUNS = {"sft": ("sft", 1), "condenser": ("condenser", 1), "sft_seed2": ("sft", 2), "condenser_seed2": ("condenser", 2)}
"""Folder -> arm of `condenser demo`, and seed."""
RECIPE = Path(__file__).parents[1] / "figures" / "recipe.yaml"
KEPT, DRAWS, ITEMS, TOP_K = (36, 24), 8, 80, 6
FORMAT_VERSION = 1


def train(folder: Path) -> None:
    """Train what is missing; ends the script where that fails."""
    for name, (arm, seed) in RUNS.items():
        if not (place := folder / name / "model").exists():
            words = ["train", "--config", str(RECIPE), "--seed", str(seed), "--output_dir", str(place.parent)]
            if status := main([*words, *ARMS[arm], *(["--resume", "true"] if place.parent.exists() else [])]):
                sys.exit(status)


def measured(name: str, path: str, base_scores: Any, items: int) -> tuple[dict[str, Any], Any]:
    """Every item's nll of one model, whole and pruned; and its scores."""
    tokenizer, model = load_tokenizer(path), load_model(path, "float32").eval()
    rows = read_rows(LEARNT, path, tokenizer, split="train", limit=200)
    scores = score_experts(model, rows, ["activation"], tokens=8000)["activation"]
    lists = {"own": scores} if base_scores is None else {"own": scores, "base": base_scores}
    lists |= {f"random {draw}": random_scores(tuple(scores.shape), draw) for draw in range(DRAWS)}
    cuts = [(kept, way, label) for kept in KEPT for way in ("as_is", "rescaled") for label in lists]
    tasks = [task for group in GROUPS.values() for task in group]
    found: dict[str, Any] = {}
    with progress(name, len(tasks) * (1 + len(cuts))) as advance, under_policy(model):
        for task in tasks:
            asked = read_rows(f"testbed:{task}", path, tokenizer, split="test", limit=items)
            whole = quality_of(model, asked, batch_size=items)
            found[task] = {"tokens": whole.tokens.astype(int).tolist(), "whole": _content(whole), "pruned": []}
            for kept, way, label in cuts:
                removed = experts_to_remove(lists[label], kept, "layer", [TOP_K] * len(scores))
                with without_experts(model, removed, rescale=way == "rescaled"):
                    quality = quality_of(model, asked, batch_size=items)
                found[task]["pruned"].append({"kept": kept, "way": way, "by": label, **_content(quality)})
                advance(1)
            advance(1)
    return {"format_version": FORMAT_VERSION, "model": name, "items": items, "tasks": found}, scores


def _content(quality: Quality) -> dict[str, Any]:
    """Nats of every item's answer, and whether each is right, as 0s and 1s."""
    exact = "".join(str(int(x)) for x in quality.exact)
    return {"nll": [round(x, 3) for x in quality.nll.tolist()], "exact": exact}


def make(runs: Path, out: Path, items: int) -> None:
    """Measure what is missing, and write the page."""
    quiet_libraries()
    base_scores = None
    for name, path in {"base": resolve_model("testbed"), **{n: str(runs / n / "model") for n in RUNS}}.items():
        file = out / f"{name}.json"
        if file.exists() and read_json(file)["items"] == items:
            base_scores = torch.tensor(read_json(file)["scores"]) if name == "base" else base_scores
            continue
        content, scores = measured(name, str(path), base_scores, items)
        base_scores = scores if name == "base" else base_scores
        write_json(file, {**content, "scores": scores.long().tolist()}, indent=None)
    write_page(out, out.parent / "long-tail.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="where the runs are")
    parser.add_argument("--out", type=Path, default=Path("results/long_tail"))
    parser.add_argument("--items", type=int, default=ITEMS, help="test items of every task")
    options = parser.parse_args()
    train(options.runs)
    make(options.runs, options.out, options.items)
