"""`condenser demo`: the embedded base model, fine-tuned by three methods on equal terms, side by side.

The three are plain SFT, ExpertCondenser, and its control: SFT in the same two phases, whose learning rate restarts
as well. What the restart does is not the method's doing, which a table of two would suggest. The learning rate is the
best one of a sweep for each of the three (results/study/sweep).
"""

import argparse
import gc
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.clearing import Kind
from expert_condenser.cli.console import quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.data.procedural.families import HELD_OUT_ITEMS, PRETRAINED, items
from expert_condenser.errors import TrainingError
from expert_condenser.files import write_json
from expert_condenser.ownership import LOCK, ending_on_sigterm
from expert_condenser.workfolder import WorkFolder

BASE, CONTROL = "base", "sft in two phases"
ARMS: dict[str, list[str]] = {
    "sft": ["--method", "sft"],
    CONTROL: [*("--method", "condenser", "--num_condensers", "0"), *("--bias_step", "0", "--bias_step_condense", "0")],
    "condenser": ["--method", "condenser", "--bias_step", "5e-3", "--bias_step_condense", "2.5e-4"],
}
"""Name -> options. The gammas move the bias by up to 0.4 logits in phase 1, as in the paper's Qwen run."""
ITEMS_BEFORE = 20
"""Test items of each family that the base knew."""
NEW = "unseen_fact_pairs"
"""The task over entities of which fine-tuning shows nothing: right only where what the base holds is still reached."""


def run(words: list[str]) -> None:
    """Fine-tune, evaluate and compare; under five minutes on two CPU cores."""
    options = _read(words)
    place = WorkFolder(options.output_dir, _KIND)
    place.undo_killed()
    place.check_clearable()
    from expert_condenser.kernels.buffers import keep_freed_memory

    quiet_libraries()
    keep_freed_memory()  # of this process alone
    with ending_on_sigterm(), place:
        place.check_clearable()  # again: another process may have been faster
        place.begin()
        _run(options, place)
    say_result(options.output_dir / "table.txt")


def _run(options: argparse.Namespace, place: WorkFolder) -> None:
    # Here and below, once the words are right: what computes takes seconds to import.
    from expert_condenser.checkpoint.load import base_model_path
    from expert_condenser.cli.progress import TrainingProgress
    from expert_condenser.training.run import train

    console, folder = Console(stderr=True), options.output_dir
    outcomes = {BASE: [_measure(base_model_path(), folder / BASE, options.limit)]}
    total = options.seeds * len(ARMS)
    for number, (name, seed) in enumerate(((n, s) for s in range(options.seeds) for n in ARMS), start=1):
        console.print(f"run {number} of {total}: {name}, seed {seed + 1}")
        run_folder = folder / f"{name.replace(' ', '_')}-seed{seed + 1}"
        start = time.time()
        model = train(_recipe(name, seed, run_folder), callbacks=[TrainingProgress()])
        seconds = time.time() - start
        place.settle()  # there is a new run: an earlier demo may go
        outcomes.setdefault(name, []).append({**_measure(model, run_folder, options.limit), "seconds": seconds})
    table = _table(outcomes, options.limit)
    Console().print(table)
    _write(outcomes, table, folder)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("demo", "Fine-tune the embedded model by three methods, and compare.", {"items": "limit"})
    parser.add_argument("--seeds", type=positive, default=1, help="runs per method, each with its own data order")
    parser.shared("limit", type=positive, default=200, help=f"test items of the task, {HELD_OUT_ITEMS} at most")
    parser.shared("output_dir", default=Path("demo"))
    options = parser.read(words)
    if options.limit > HELD_OUT_ITEMS:
        raise TrainingError(f"--limit is 1 to {HELD_OUT_ITEMS}, the items of the test split; got {options.limit}")
    return options


def _is_older(folder: Path) -> bool:
    """Whether a folder is a demo's of a release that set no marker: all that is in it is what a demo writes."""
    names = [path.name for path in folder.iterdir() if path.name != LOCK]
    return (folder / BASE / "results.json").exists() and all(re.fullmatch(_WRITTEN, name) for name in names)


_OWN_RUNS = r"base|[a-z_]+-seed\d+"
_WRITTEN = rf"{_OWN_RUNS}|table\.txt|summary\.json|usage\.png"
_KIND = Kind("demo", _is_older, _OWN_RUNS)


def _recipe(name: str, seed: int, place: Path) -> Any:
    from expert_condenser.testbed import finetune_recipe_path
    from expert_condenser.training.parse import parse_recipe

    words = ["--config", str(finetune_recipe_path()), "--seed", str(seed + 1), "--output_dir", str(place)]
    return parse_recipe([*words, *ARMS[name]])


def _task() -> str:
    return _recipe("sft", 0, Path()).data.data.split(":")[1]


def _measure(model_path: Path, place: Path, count: int) -> dict[str, Any]:
    """Accuracy and nll per family, and the usage of every expert on held-out items of the task."""
    from expert_condenser.checkpoint.load import load_model, load_tokenizer
    from expert_condenser.data.sources import TESTBED
    from expert_condenser.evaluation.backends.local import LocalBackend
    from expert_condenser.evaluation.evaluate import evaluate
    from expert_condenser.evaluation.generation import Generation
    from expert_condenser.evaluation.tasks import load
    from expert_condenser.moe.attachment import find_attachment
    from expert_condenser.moe.own_types import condensers_of
    from expert_condenser.moe.usage import measure_usage

    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    known = [load(f"{TESTBED}{family.name}", limit=min(count, ITEMS_BEFORE)) for family in PRETRAINED]
    backend = LocalBackend(model_path, tokenizer, model=model)
    tasks = [*(load(f"{TESTBED}{name}", limit=count) for name in (_task(), NEW)), *known]
    results = evaluate(backend, tokenizer, tasks, place, Generation(), label=place.name)
    texts = [f"{item.question}\n{item.answer}" for item in items(_task(), "validation", 200)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    attachment = find_attachment(model)
    scores = {
        metric: {name.removeprefix(TESTBED): task[metric] for name, task in results["tasks"].items()}
        for metric in ("accuracy", "nll")
    }
    outcome = {
        **scores,
        "usage": measure_usage(model, tokenizer, rows).counts,
        "condensers": condensers_of(model) if attachment is not None else {},
    }
    del model, backend
    gc.collect()
    return outcome


def _table(outcomes: Mapping[str, list[dict[str, Any]]], count: int) -> Table:
    """A row per model; nll in nats per token, the lower the better; Gini of the usage, 0 where it is even."""
    from expert_condenser.functional.concentration import gini

    task = _task()
    table = Table(
        title=f"{count} test items of {task}, of {NEW}, {min(count, ITEMS_BEFORE)} of {len(PRETRAINED)} old tasks",
        caption=f"Of {count} items alone, an accuracy has a standard error of up to {50 / count**0.5:.0f} points;"
        " seeds differ by more (--seeds)",
    )
    for name in ("model", "task, %", "nll", "new, %", "nll", "before, %", "nll", "Gini", "seconds"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, runs in outcomes.items():
        table.add_row(
            name,
            _number([100 * run["accuracy"][task] for run in runs], 1),
            _number([run["nll"][task] for run in runs], 3),
            _number([100 * run["accuracy"][NEW] for run in runs], 1),
            _number([run["nll"][NEW] for run in runs], 3),
            _number([100 * _before(run["accuracy"]) for run in runs], 1),
            _number([_before(run["nll"]) for run in runs], 2),
            _number([gini(run["usage"]).mean().item() for run in runs], 2),
            "" if name == BASE else f"{mean(run['seconds'] for run in runs):.0f}",
        )
    return table


def _before(values: Mapping[str, float]) -> float:
    return mean(values[family.name] for family in PRETRAINED)


def _number(values: Sequence[float], digits: int) -> str:
    """The mean, and over several seeds the standard deviation."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _write(outcomes: Mapping[str, list[dict[str, Any]]], table: Table, folder: Path) -> None:
    """`table.txt`, the numbers behind it in `summary.json`, and the picture of expert usage."""
    from expert_condenser.report.figures import plot_usage

    with (folder / "table.txt").open("w") as file:
        Console(file=file, width=120).print(table)
    summary = {name: [{**run, "usage": run["usage"].tolist()} for run in runs] for name, runs in outcomes.items()}
    write_json(folder / "summary.json", summary, indent=None)
    usage: dict[str, Any] = {name: runs[0]["usage"] for name, runs in outcomes.items()}
    plot_usage(usage, {name: runs[0]["condensers"] for name, runs in outcomes.items()}, folder / "usage.png")
