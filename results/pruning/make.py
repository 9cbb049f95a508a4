"""Does phase 1 of the condenser find more to remove than plain fine-tuning leaves? `make pruning`.

Two arms from the embedded base, 450 steps each, by three seeds: `sft`, and `bias_only`, which is phase 1 by itself
(gamma 5e-3), with the settings of results/study/screening. Every model is asked held-out items of what it learnt, with
fewer and fewer experts per layer, the least used going first (`condenser analyze prune`). Usage is counted on training
rows. Six runs and seven curves take half an hour of a core.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from expert_condenser.cli.main import main

ARMS = {"sft": ["--method", "sft"], "bias_only": ["--method", "bias_only", "--bias_step", "5e-3"]}
SEEDS = (1, 2, 3)
KEEP = (40, 32, 28, 24, 20, 16, 12, 9, 6)
TRAINING = {
    "model": "testbed",
    "data": "testbed:fact_mixture:9000",
    "max_steps": 450,
    "per_device_train_batch_size": 10,
    "learning_rate": 2e-4,
    "train_sampling_strategy": "group_by_length",
    "weight_decay": 0.0,
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
OUT = Path(__file__).parent


def train(runs: Path, arm: str, seed: int) -> Path:
    """One run, unless it is there."""
    place = runs / f"{arm}-{seed}"
    if not (place / "model").exists():
        recipe = runs / "recipe.json"
        runs.mkdir(parents=True, exist_ok=True)
        recipe.write_text(json.dumps(TRAINING))
        condenser("train", "--config", recipe, *ARMS[arm], "--seed", seed, "--output_dir", place)
    return place


def curve(runs: Path, name: str, model: Path | str) -> dict[str, Any]:
    """The model with fewer and fewer experts, as `prune.json` has it."""
    place = runs / "curves" / name
    if not (place / "prune.json").exists():
        keep = ",".join(map(str, KEEP))
        ways = ["--criteria", "activation", "--scopes", "layer", "--ways", "rescaled", "--draws", 0, "--keep", keep]
        rows = ["--data", "testbed:fact_pairs", "--limit", 200, "--score_tokens", 8192, "--batch_size", 50]
        condenser("analyze", "prune", "--model", model, *ways, *rows, "--output_dir", place)
    found: dict[str, Any] = json.loads((place / "prune.json").read_text())
    return found


def condenser(*words: Any) -> None:
    """One command; ends the script where it fails."""
    if status := main([str(word) for word in words]):
        sys.exit(status)


def numbers(found: dict[str, Any]) -> dict[str, list[float]]:
    """nll and accuracy of the whole model, and for each of `KEEP`."""
    asked = {48: found["whole"], **{prune["kept"]: prune for prune in found["prunes"]}}
    return {key: [asked[kept][key] for kept in (48, *KEEP)] for key in ("nll", "accuracy")}


def table(curves: dict[str, list[dict[str, list[float]]]]) -> str:
    """nll by experts kept: mean and standard deviation over seeds, and the difference of the arms seed by seed."""
    head = "| experts kept | sft, nll | bias_only, nll | bias_only - sft | sft, exact | bias_only, exact |"
    lines = [head, "|---:|---:|---:|---:|---:|---:|"]
    for at, kept in enumerate((48, *KEEP)):
        nll = {arm: [run["nll"][at] for run in curves[arm]] for arm in ARMS}
        exact = {arm: mean(run["accuracy"][at] for run in curves[arm]) for arm in ARMS}
        apart = [second - first for first, second in zip(nll["sft"], nll["bias_only"], strict=True)]
        cells = [f"{mean(nll[arm]):.3f} ± {spread(nll[arm]):.3f}" for arm in ARMS]
        cells += [f"{mean(apart):+.3f} ± {spread(apart):.3f}", *(f"{exact[arm]:.1%}" for arm in ARMS)]
        lines.append(f"| {kept} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> float:
    """Standard deviation; 0 of one seed."""
    return stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where runs and curves go, or are")
    runs = parser.parse_args().runs
    found = {arm: [numbers(curve(runs, f"{arm}-{s}", train(runs, arm, s))) for s in SEEDS] for arm in ARMS}
    base = numbers(curve(runs, "base", "testbed"))
    content = {"kept": [48, *KEEP], "base": base, **found}
    (OUT / "curves.json").write_text(json.dumps(content, indent=1) + "\n")
    print(table(found), end="")
