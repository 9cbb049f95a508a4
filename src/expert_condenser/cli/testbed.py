"""`condenser testbed pretrain`, `condenser testbed long_tail` and `condenser testbed evaluate`."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data.procedural.families import FAMILIES, HELD_OUT_ITEMS, PRETRAINED, TASKS, frequencies
from expert_condenser.data.sources import TESTBED
from expert_condenser.errors import TrainingError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.tasks import load
from expert_condenser.files import read_json
from expert_condenser.testbed.long_tail import TAIL, LongTailConfig, dissociation, tail_usage, train_long_tail
from expert_condenser.testbed.pretrain import PretrainConfig, pretrain


def testbed(arguments: Sequence[str]) -> None:
    """Make the embedded base model again, or one with a long tail, or measure a model on the testbed's families."""
    parser = argparse.ArgumentParser(prog="condenser testbed", description=testbed.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("pretrain", help="about 90 CPU-minutes; a killed run goes on where it was")
    train.add_argument("--output_dir", type=Path, required=True)
    train.add_argument("--steps", type=int, default=PretrainConfig.steps)
    tail = commands.add_parser("long_tail", help="the embedded base with experts that are rare: about 10 CPU-minutes")
    tail.add_argument("--output_dir", type=Path, required=True)
    tail.add_argument("--steps", type=int, default=LongTailConfig.steps)
    tail.add_argument("--items", type=int, default=100, help="of every family, to show which experts hold it")
    measure = commands.add_parser("evaluate", help="exact match on the test split of every family")
    measure.add_argument("--model", type=Path, default=None, help="a model directory; the embedded base by default")
    measure.add_argument("--items", type=int, default=HELD_OUT_ITEMS)
    measure.add_argument("--out", type=Path, default=None, help="where results.json and every answer go")
    options = parser.parse_args(list(arguments))
    if options.command == "pretrain":
        pretrain(options.output_dir, PretrainConfig(steps=options.steps))
    elif options.command == "long_tail":
        _long_tail(options.output_dir, LongTailConfig(steps=options.steps), options.items)
    elif options.out is not None:
        _evaluate(options.model or base_model_path(), options.items, options.out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _evaluate(options.model or base_model_path(), options.items, Path(folder))


def _long_tail(output_dir: Path, recipe: LongTailConfig, count: int) -> None:
    """Train, then show that the tail's experts hold the tail's families: `dissociation.json`."""
    base, made = output_dir / "base", output_dir / "recipe.json"
    if not (base / "tokenizer_config.json").exists():  # what is written last
        train_long_tail(output_dir, recipe)
    elif read_json(made) != asdict(recipe):
        raise TrainingError(f"{output_dir} holds a base of another recipe ({made}); name another --output_dir")
    found = dissociation(base, [family.name for family in PRETRAINED], count)
    usage = tail_usage(base, recipe.tail_share)
    (output_dir / "dissociation.json").write_text(json.dumps({**found, "usage of the tail": usage}, indent=1) + "\n")
    table = Table(title=f"Accuracy with experts taken out, {count} validation items")
    for name in ("family", "in the tail", *found):
        table.add_column(name, justify="left" if name == "family" else "right")
    for name in found["whole"]:
        row = [f"{accuracies[name]:.0%}" for accuracies in found.values()]
        table.add_row(name, "yes" if name in TAIL else "", *row)
    Console().print(table)


def _evaluate(path: Path, count: int, out: Path) -> None:
    tasks = [load(f"{TESTBED}{family.name}", limit=count) for family in FAMILIES + TASKS]
    tokenizer = load_tokenizer(path)
    backend = LocalBackend(path, tokenizer, device="cpu")
    results = evaluate(backend, tokenizer, tasks, out, Generation(), label=path.name)
    table = Table(title=f"{path.name}: exact match on {count} test items")
    for name in ("family", "share of pretraining", "accuracy"):
        table.add_column(name, justify="left" if name == "family" else "right")
    shares = frequencies()
    for task, result in results["tasks"].items():
        name = task.removeprefix(TESTBED)
        table.add_row(name, f"{shares.get(name, 0):.1%}", f"{result['accuracy']:.1%}")
    Console().print(table)
