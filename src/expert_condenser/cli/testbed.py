"""`condenser testbed pretrain`, `long_tail`, `evaluate` and `accept`."""

import tempfile
from argparse import ArgumentTypeError
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.cli.console import progress, quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.data.procedural.families import FAMILIES, HELD_OUT_ITEMS, PRETRAINED, TASKS, frequencies
from expert_condenser.errors import TrainingError, UsageError
from expert_condenser.files import read_json, write_json
from expert_condenser.names import unknown

SUMMARY = """condenser testbed COMMAND [options]

  pretrain   make the embedded base model again: about six CPU-hours; a killed run goes on where it was
  long_tail  the first base (testbed-v1) with experts that are rare: about 10 CPU-minutes
  evaluate   exact match on the test split of every family
  accept     whether a base that knows facts is a ground on which methods can be told apart: about 10 CPU-minutes"""


def run(words: list[str]) -> None:
    """Make the embedded base model again, or one with a long tail, or measure a model on the testbed's families."""
    if words[:1] in (["-h"], ["--help"]):
        print(SUMMARY)
        return
    name, rest = words[0].replace("-", "_") if words else "", words[1:]
    if name not in _COMMANDS:
        raise UsageError(unknown("testbed command", words[0] if words else "", _COMMANDS))
    _COMMANDS[name](rest)


def _pretrain(words: list[str]) -> None:
    parser = Parser("testbed pretrain", "Make an embedded base model again; a killed run goes on where it was.")
    parser.shared("output_dir", required=True)
    parser.add_argument(
        "--recipe", choices=["v1", "v2"], default="v2", help="the embedded base, or the first one (testbed-v1)"
    )
    parser.add_argument("--steps", type=positive, help="default: those of the recipe")
    parser.add_argument("--norm_topk_prob", action="store_true", help="the chosen experts' weights sum to 1")
    options = parser.read(words)
    import torch  # once the words are right, as the rest

    from expert_condenser.kernels.buffers import keep_freed_memory
    from expert_condenser.kernels.threads import threads_each
    from expert_condenser.testbed.pretrain import pretrain
    from expert_condenser.testbed.recipes import RECIPES

    quiet_libraries()
    keep_freed_memory()
    recipe = RECIPES[options.recipe]
    recipe = replace(recipe, steps=options.steps or recipe.steps, norm_topk_prob=options.norm_topk_prob)
    torch.set_num_threads(threads_each(recipe.shards))
    with progress("steps", recipe.steps) as advance:
        pretrain(options.output_dir, recipe, advance)
    say_result(options.output_dir / "base")


def _make_long_tail(words: list[str]) -> None:
    parser = Parser("testbed long_tail", "The first base (testbed-v1) with experts that are rare.", {"items": "limit"})
    parser.shared("output_dir", required=True)
    parser.add_argument("--steps", type=positive, help="default: enough that the tail's experts hold the tail")
    parser.shared("limit", type=positive, default=100, help="items of every family, to show which experts hold it")
    options = parser.read(words)
    from expert_condenser.testbed.long_tail import LongTailConfig  # once the words are right: torch

    quiet_libraries()
    _long_tail(options.output_dir, LongTailConfig(steps=options.steps or LongTailConfig.steps), options.limit)


def _measure(words: list[str]) -> None:
    aliases = {"items": "limit", "out": "output_dir"}
    parser = Parser("testbed evaluate", "Exact match on the test split of every family.", aliases)
    parser.shared("model", default="testbed")
    parser.shared("limit", type=positive, default=HELD_OUT_ITEMS, help="items of every family")
    parser.shared("output_dir", help="where results.json and every answer go; by default they are not kept")
    options = parser.read(words)
    from expert_condenser.checkpoint.load import resolve_model  # once the words are right: transformers

    quiet_libraries()
    model = Path(resolve_model(options.model))
    if options.output_dir is not None:
        _evaluate(model, options.limit, options.output_dir)
        say_result(options.output_dir / "results.json")
        return
    with tempfile.TemporaryDirectory() as folder:
        _evaluate(model, options.limit, Path(folder))


def _accept(words: list[str]) -> None:
    parser = Parser("testbed accept", "Examine a base that knows facts: a table of conditions, and accept.json.")
    parser.shared("model", required=True)
    parser.shared("output_dir", required=True)
    parser.shared("limit", type=positive, default=400, help="items of the facts and tasks; a fifth of old families")
    parser.add_argument("--experts", type=positive, default=12, help="experts of a layer that are taken out")
    parser.add_argument("--rows", type=positive, default=9000, help="rows to fine-tune on")
    parser.add_argument("--learning_rates", type=rates, help="a grid with commas, ascending")
    options = parser.read(words)
    from expert_condenser.checkpoint.load import resolve_model  # once the words are right: torch
    from expert_condenser.kernels.buffers import keep_freed_memory
    from expert_condenser.testbed.acceptance import AcceptanceConfig, accept

    quiet_libraries()
    keep_freed_memory()
    config = AcceptanceConfig(limit=options.limit, experts=options.experts, rows=options.rows)
    config = replace(config, learning_rates=options.learning_rates or config.learning_rates)
    with progress("parts", 2 + len(config.learning_rates)) as advance:
        accepted = accept(Path(resolve_model(options.model)), options.output_dir, config, advance)
    table = Table(title=f"{options.model}: is it a ground on which methods can be told apart?")
    for name in ("condition", "wanted", "found", "met"):
        table.add_column(name)
    for condition in accepted.conditions:
        table.add_row(condition.name, condition.wanted, condition.found, "yes" if condition.met else "no")
    Console().print(table)
    print(f"missed: {', '.join(accepted.missed) or 'none'}")
    say_result(options.output_dir / "accept.json")


def rates(text: str) -> tuple[float, ...]:
    """Learning rates from `1e-4,2e-4`."""
    found = tuple(map(float, text.split(",")))
    if min(found) <= 0 or list(found) != sorted(set(found)):
        raise ArgumentTypeError(f"positive and ascending; got {text}")
    return found


_COMMANDS = {"pretrain": _pretrain, "long_tail": _make_long_tail, "evaluate": _measure, "accept": _accept}


def _long_tail(output_dir: Path, recipe: Any, count: int) -> None:
    """Train by a `LongTailConfig`, then show that the tail's experts hold the tail's families: `dissociation.json`."""
    from expert_condenser.testbed.long_tail import TAIL, dissociation, tail_usage, train_long_tail

    base, made = output_dir / "base", output_dir / "recipe.json"
    if not (base / "tokenizer_config.json").exists():  # what is written last
        with progress("steps", recipe.steps) as advance:
            train_long_tail(output_dir, recipe, advance)
    elif read_json(made) != asdict(recipe):
        raise TrainingError(f"{output_dir} holds a base of another recipe ({made}); name another --output_dir")
    found = dissociation(base, [family.name for family in PRETRAINED], count)
    usage = tail_usage(base, recipe.tail_share)
    write_json(output_dir / "dissociation.json", {**found, "usage of the tail": usage}, indent=1)
    table = Table(title=f"Accuracy with experts taken out, {count} validation items")
    for name in ("family", "in the tail", *found):
        table.add_column(name, justify="left" if name == "family" else "right")
    for name in found["whole"]:
        row = [f"{accuracies[name]:.0%}" for accuracies in found.values()]
        table.add_row(name, "yes" if name in TAIL else "", *row)
    Console().print(table)
    say_result(output_dir)


def _evaluate(path: Path, count: int, out: Path) -> None:
    from expert_condenser.checkpoint.load import load_tokenizer
    from expert_condenser.data.sources import TESTBED
    from expert_condenser.evaluation.backends.local import LocalBackend
    from expert_condenser.evaluation.evaluate import evaluate
    from expert_condenser.evaluation.generation import Generation
    from expert_condenser.evaluation.tasks import load

    tasks = [load(f"{TESTBED}{family.name}", limit=count) for family in FAMILIES + TASKS]
    tokenizer = load_tokenizer(path)
    backend = LocalBackend(path, tokenizer, device="cpu")
    with progress("answers", sum(len(task.questions) for task in tasks)) as advance:
        results = evaluate(backend, tokenizer, tasks, out, Generation(), label=path.name, advance=advance)
    table = Table(title=f"{path.name}: exact match on {count} test items")
    for name in ("family", "share of pretraining", "accuracy"):
        table.add_column(name, justify="left" if name == "family" else "right")
    shares = frequencies()
    for task, result in results["tasks"].items():
        name = task.removeprefix(TESTBED)
        table.add_row(name, f"{shares.get(name, 0):.1%}", f"{result['accuracy']:.1%}")
    Console().print(table)
