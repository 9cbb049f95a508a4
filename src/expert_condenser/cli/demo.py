"""`condenser demo`: the embedded base model, fine-tuned with `sft` and with `condenser`, side by side."""

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import datasets
import torch
import transformers
from rich.console import Console
from rich.table import Table

from expert_condenser.checkpoint.guard import clear
from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.data.procedural.families import HELD_OUT_ITEMS, PRETRAINED, items
from expert_condenser.data.sources import TESTBED
from expert_condenser.errors import TrainingError
from expert_condenser.evaluation.backends.transformers_backend import Generation, ModelBackend
from expert_condenser.evaluation.evaluate import evaluate, settings_of
from expert_condenser.evaluation.tasks import load
from expert_condenser.functional.concentration import gini
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.moe.usage import measure_usage
from expert_condenser.report.figures import plot_usage
from expert_condenser.testbed import finetune_recipe_path
from expert_condenser.training.parse import parse_recipe
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.run import train

METHODS_SHOWN = ("sft", "condenser")
BIAS_STEP = "5e-3"
"""gamma1 of the demo: over the 63 steps of phase 1 the bias moves by up to 0.3 logits, as in the paper's Qwen run."""


def demo(arguments: Sequence[str]) -> None:
    """fine-tune the embedded model with sft and condenser, and compare: [--seeds N] [--output_dir demo]"""
    options = _parse(arguments)
    console = Console()
    _quiet()
    folder = Path(options.output_dir)
    _take_over(folder)
    console.print(f"Everything is written to [bold]{folder}[/]. Evaluating the base model ...")
    outcomes = {"base": [_measure(base_model_path(), folder / "base", options.items)]}
    for method in METHODS_SHOWN:
        outcomes[method] = []
        for seed in range(options.seeds):
            place = folder / f"{method}-seed{seed}"
            start = time.time()
            model = train(_recipe(method, seed, place))
            seconds = time.time() - start
            outcomes[method].append({**_measure(model, place, options.items), "seconds": seconds})
    table = _table(outcomes, _task(), options.items)
    console.print(table)
    _write(outcomes, table, folder)
    console.print(
        f"Expert usage before and after: {folder / 'usage.png'}. Items and numbers: results.json beside each run."
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="condenser demo", description=demo.__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="runs per method, each with its own data order")
    parser.add_argument("--items", type=int, default=100, help="test items per family, 400 at most")
    parser.add_argument("--output_dir", default="demo")
    options = parser.parse_args(list(arguments))
    if options.seeds < 1 or not 1 <= options.items <= HELD_OUT_ITEMS:
        raise TrainingError(
            f"--seeds is 1 or more and --items 1 to {HELD_OUT_ITEMS}; got {options.seeds} and {options.items}"
        )
    return options


def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def _take_over(folder: Path) -> None:
    """The demo replaces its own earlier output, and nothing else."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "base" / "results.json").exists():
        raise TrainingError(f"the demo replaces only its own output, and {folder} holds something else; name another")
    clear(folder)


def _recipe(method: str, seed: int, place: Path) -> Recipe:
    words = ["--config", str(finetune_recipe_path()), "--method", method, "--seed", str(1234 + 10 * seed)]
    bias = ["--bias_step", BIAS_STEP] if method != "sft" else []
    return parse_recipe([*words, *bias, "--output_dir", str(place)])


def _task() -> str:
    return _recipe("sft", 0, Path()).data.data.split(":")[1]


def _measure(model_path: Path, place: Path, count: int) -> dict[str, Any]:
    """Accuracy per family, and the usage of every expert on held-out items of the task."""
    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    tasks = [load(f"{TESTBED}{name}", limit=count) for name in (_task(), *(family.name for family in PRETRAINED))]
    backend = ModelBackend(model, tokenizer)
    results = evaluate(
        backend,
        tokenizer,
        tasks,
        place,
        Generation(),
        settings=settings_of(tokenizer, tasks, Generation(), place.name),
        progress=False,
    )
    texts = [f"{item.question}\n{item.answer}" for item in items(_task(), "validation", 200)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    attached = hasattr(moe_layers(model)[0].router, "condenser_ids")
    outcome = {
        "accuracy": {name.removeprefix(TESTBED): task["accuracy"] for name, task in results["tasks"].items()},
        "usage": measure_usage(model, tokenizer, rows).counts,
        "condensers": condensers_of(model) if attached else {},
    }
    del model
    gc.collect()
    return outcome


def _table(outcomes: Mapping[str, list[dict[str, Any]]], task: str, count: int) -> Table:
    table = Table(title=f"Exact match on {count} test items per family")
    for name in ("model", task, "learnt before", "forgotten", "usage Gini", "seconds"):
        table.add_column(name, justify="left" if name == "model" else "right")
    base = outcomes["base"][0]["accuracy"]
    for name, runs in outcomes.items():
        others = [mean(v for k, v in run["accuracy"].items() if k != task) for run in runs]
        lost = [mean(max(0.0, base[k] - v) for k, v in run["accuracy"].items() if k != task) for run in runs]
        table.add_row(
            name,
            _number([run["accuracy"][task] for run in runs]),
            _number(others),
            "" if name == "base" else _number(lost),
            _number([gini(run["usage"]).mean().item() for run in runs], scale=1),
            "" if name == "base" else f"{mean(run['seconds'] for run in runs):.0f}",
        )
    return table


def _number(values: Sequence[float], scale: float = 100.0) -> str:
    """The mean, and over several seeds the standard deviation."""
    digits = 1 if scale == 100.0 else 2
    spread = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * mean(values):.{digits}f}{spread}"


def _write(outcomes: Mapping[str, list[dict[str, Any]]], table: Table, folder: Path) -> None:
    """`table.txt`, the numbers behind it in `summary.json`, and the picture of expert usage."""
    with (folder / "table.txt").open("w") as file:
        Console(file=file, width=100).print(table)
    summary = {name: [{**run, "usage": run["usage"].tolist()} for run in runs] for name, runs in outcomes.items()}
    (folder / "summary.json").write_text(json.dumps(summary) + "\n")
    _draw(outcomes, folder / "usage.png")


def _draw(outcomes: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    usage: dict[str, torch.Tensor] = {name: runs[0]["usage"] for name, runs in outcomes.items()}
    plot_usage(usage, {name: runs[0]["condensers"] for name, runs in outcomes.items()}, path)
