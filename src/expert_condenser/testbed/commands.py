"""`condenser testbed pretrain` and `condenser testbed evaluate`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from expert_condenser.checkpoint import load_model, load_tokenizer
from expert_condenser.evaluation.testbed import accuracies, as_results, evaluate_families
from expert_condenser.testbed import base_model_path
from expert_condenser.testbed.families import FAMILIES, HELD_OUT_ITEMS, TASKS, frequencies
from expert_condenser.testbed.pretrain import PretrainConfig, pretrain


def testbed(arguments: Sequence[str]) -> None:
    """Make the embedded base model again, or measure a model on the testbed's families."""
    parser = argparse.ArgumentParser(prog="condenser testbed", description=testbed.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("pretrain", help="about 90 CPU-minutes; a killed run goes on where it was")
    train.add_argument("--output_dir", type=Path, required=True)
    train.add_argument("--steps", type=int, default=PretrainConfig.steps)
    evaluate = commands.add_parser("evaluate", help="exact match on the test split of every family")
    evaluate.add_argument("--model", type=Path, default=None, help="a model directory; the embedded base by default")
    evaluate.add_argument("--items", type=int, default=HELD_OUT_ITEMS)
    evaluate.add_argument("--out", type=Path, default=None, help="where results.json goes")
    options = parser.parse_args(list(arguments))
    if options.command == "pretrain":
        pretrain(options.output_dir, PretrainConfig(steps=options.steps))
    else:
        _evaluate(options.model or base_model_path(), options.items, options.out)


def _evaluate(path: Path, count: int, out: Path | None) -> None:
    model, tokenizer = load_model(path), load_tokenizer(path)
    records = evaluate_families(model, tokenizer, [family.name for family in FAMILIES + TASKS], count=count)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(as_results(records), indent=1) + "\n")
    table = Table(title=f"{path.name}: exact match on {count} test items")
    for name in ("family", "share of pretraining", "accuracy"):
        table.add_column(name, justify="left" if name == "family" else "right")
    shares = frequencies()
    for name, accuracy in accuracies(records).items():
        table.add_row(name, f"{shares.get(name, 0):.1%}", f"{accuracy:.1%}")
    Console().print(table)
