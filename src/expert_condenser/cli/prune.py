"""`condenser prune`: a checkpoint without some of its experts, for good; what that cost, and tuning after it."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.appearing import appearing, check_free
from expert_condenser.cli.console import progress, quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.errors import UsageError

MODES = ("teacher_forced", "likelihood", "generate")


def run(words: list[str]) -> None:
    """Choose, cut, save, ask the model before and after, and tune it."""
    options = _read(words)
    from expert_condenser.surgery.healing import heal, healing_recipe  # takes seconds to import
    from expert_condenser.surgery.pruning import RESULT, Pruning, Request, check_request

    quiet_libraries()
    request = Request(**{field.name: getattr(options, field.name) for field in fields(Request)})
    check_request(request)
    if options.heal:  # what is wrong in it is said before the pruning
        healing_recipe(options.output_dir, options.heal, options.heal_config, options.data)
    pruning = Pruning(request)
    with appearing(options.output_dir) as folder, progress("layers scored", pruning.num_layers) as advance:
        pruning.run(folder, advance)
    if options.heal:
        heal(pruning, options.output_dir, options.heal, options.heal_config)
    content = pruning.content()
    Console().print(_table(content))
    if options.evaluate is not None:
        Console().print(_tasks(content))
    for line in _remarks(content):
        print(line)
    say_result(options.output_dir / RESULT)


def _table(content: Mapping[str, Any]) -> Table:
    """A row per version of the model."""
    table = Table(title="pruned")
    asked = "nll" in content["versions"][0]
    columns = ("model", "experts", "M weights", "MB")
    for name in columns + (("accuracy", "nll", "rise of nll", "tokens/s") if asked else ()):
        table.add_column(name, justify="left" if name == "model" else "right")
    for version in content["versions"]:
        size = (str(version["num_experts"]), f"{version['parameters'] / 1e6:.1f}", f"{version['file_bytes'] / 1e6:.1f}")
        table.add_row(version["name"], *size, *(_quality(version) if asked else ()))
    return table


def _tasks(content: Mapping[str, Any]) -> Table:
    """A row per task and version."""
    table = Table(title="asked before and after", caption="change: with its 95 % interval for new questions, paired")
    for name in ("task", "model", "questions", "accuracy", "change", "nll", "rise of nll"):
        is_name = name in ("task", "model")
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
    versions = content["versions"]
    for task in versions[0]["tasks"]:
        for version in versions:
            table.add_row(task, version["name"], *_scores(version["tasks"][task], first=version is versions[0]))
    return table


def _scores(task: Mapping[str, Any], *, first: bool) -> tuple[str, ...]:
    low, high = task["accuracy_change_interval"]
    change = "" if first else f"{task['accuracy_change']:+.1%} [{low:+.1%}, {high:+.1%}]"
    nll = "" if task["nll"] is None else f"{task['nll']:.3f}"
    rise = "" if first or task["nll_rise"] is None else f"{task['nll_rise']:+.3f}"
    return str(task["items"]), f"{task['accuracy']:.1%}", change, nll, rise


def _quality(version: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = version["nll_rise_interval"]
    rise = "" if version["name"] == "before" else f"{version['nll_rise']:+.3f} [{low:+.3f}, {high:+.3f}]"
    rate = f"{version['answer_tokens_per_second']:.0f}"
    return f"{version['accuracy']:.1%}", f"{version['nll']:.3f}", rise, rate


def _remarks(content: Mapping[str, Any]) -> list[str]:
    """What a person should know about the routing."""
    layers = content["routing"]
    if not layers and "nll" not in content["versions"][0]:
        if "tasks" in content["versions"][0]:
            return ["without --data the effect on the routing is not known"]
        return [
            "without --data or --evaluate nothing was asked: accuracy, nll and the effect on the routing are not known"
        ]
    if not layers:
        return ["what the removed experts had of the choices is not known: this family's calls cannot be read"]
    choices = [layer["choices"] for layer in layers]
    lines = [
        f"the removed experts had {sum(choices) / len(choices):.1%} of all choices, {max(choices):.1%} in the layer "
        "where they had most"
    ]
    if any(layer["rescaled"] for layer in layers):
        median = max(layer["factor_median"] for layer in layers)
        largest = max(layer["factor_largest"] for layer in layers)
        lines.append(
            "this family does not renormalise: without the removed experts' part of the softmax all gate weights rise, "
            f"{median:.2f} times for the median token in the layer where most, {largest:.4g} times at most; "
            "--heal tunes that away"
        )
    if any(layer["shifted"] for layer in layers):
        lines.append(
            "a bias is added to the scores of a softmax, which rise without the removed experts: tokens near a tie "
            "choose otherwise, also among those that are left; --heal tunes that away"
        )
    return lines


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("prune", "Remove experts from a model for good, condensers never, as many from every layer.")
    parser.shared("model", required=True, help="a run's folder, a directory, a hub name, or testbed")
    parser.add_argument("--keep", type=positive, metavar="N", help="experts per layer that stay; or --remove N")
    parser.add_argument("--remove", type=positive, metavar="N", help="experts per layer that go")
    parser.add_argument("--by", help="usage, gate_mass, weight_norm, bias, reap, reconstruction: the lowest go")
    parser.add_argument("--list", dest="listed", type=Path, metavar="FILE", help="experts.jsonl of `analyze prune`")
    parser.add_argument("--usage", type=Path, metavar="FILE", help="usage that was counted, in place of --by")
    parser.shared("data", help="rows that experts are scored on, and that the models are asked")
    parser.shared("split", help="of the rows that the models are asked; default: test, where there are splits")
    parser.add_argument("--score_split", default="train", help="of the rows that experts are scored on")
    parser.add_argument("--evaluate", metavar="TASKS", help="tasks of `condenser eval`, asked before and after: a,b")
    parser.add_argument("--evaluate_data", type=Path, metavar="DIR", help="the tasks' files; default: hub")
    parser.add_argument("--evaluate_mode", choices=MODES, default="teacher_forced", help="as --mode of `eval`")
    parser.shared("limit", type=positive, default=256, help="rows, and questions of every task")
    parser.add_argument("--score_tokens", type=positive, default=2048, help="tokens that experts are scored on")
    parser.add_argument("--max_length", type=positive, default=1024, help="cut rows at this many tokens")
    parser.add_argument("--batch_size", type=positive, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="float32", help="to measure in")
    parser.shared("device")
    parser.add_argument("--heal", type=positive, metavar="STEPS", help="steps of plain fine-tuning after it")
    parser.add_argument("--heal_config", type=Path, metavar="FILE", help="a recipe for it; without one, on --data")
    parser.add_argument("--output_dir", metavar="DIR", type=Path, required=True, help="a directory that is not there")
    options = parser.read(words)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    check_free(options.output_dir)
    named = options.listed is not None
    if options.keep is None and options.remove is None and not named:
        raise UsageError("--keep N or --remove N says how many experts every layer has after it, or loses")
    if options.data is None and options.by not in (None, "weight_norm", "bias") and not (options.usage or named):
        raise UsageError(f"--by {options.by} looks at what experts do on rows; name some with --data")
    if options.heal_config is not None and not options.heal:
        raise UsageError("--heal_config is the recipe of --heal STEPS; give both")
    if options.heal and options.heal_config is None and options.data is None:
        raise UsageError("--heal tunes on --data, or by the recipe --heal_config; name either")
    if options.heal_config is not None and not options.heal_config.is_file():
        raise UsageError(f"--heal_config is a recipe; there is no file {options.heal_config}")
