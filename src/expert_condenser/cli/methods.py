"""`condenser methods`: what there is to choose from, and what a training step of each costs."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from expert_condenser.cli.catalog import catalog, committed_costs
from expert_condenser.cli.console import progress, put_json, say_result
from expert_condenser.cli.parsing import Parser, at_least
from expert_condenser.files import write_json


def run(words: list[str]) -> None:
    """Print every method with its paper, what it trains, and its measured cost; or measure the costs again."""
    options = _read(words)
    costs = committed_costs()
    if options.measure is not None:
        from expert_condenser.bench.costs import measure_costs

        options.measure.touch()  # an unwritable file is found before an hour is spent
        with progress("rounds", options.rounds) as advance:
            costs = measure_costs(options.rounds, advance)
        write_json(options.measure, costs, indent=1)
    rows = [{**row, "relative_cost": costs["relative_to_sft"].get(row["name"])} for row in catalog()["methods"]]
    if options.json is not None:
        put_json(options.json, {"methods": rows, "cost_measured_on": costs["measured_on"]}, indent=1)
    else:
        _print(rows, costs["measured_on"])
    if options.measure is not None and options.json != "-":  # then stdout is JSON and nothing else
        say_result(options.measure)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("methods", "The methods and what they cost.")
    parser.shared("json")
    parser.add_argument("--measure", metavar="FILE", type=Path, help="measure the costs here, into a JSON file")
    parser.add_argument(
        "--rounds", type=partial(at_least, 2), default=5, help="steps of each method, in turns (with --measure)"
    )
    return parser.read(words)


def _print(rows: list[dict[str, Any]], measured_on: str) -> None:
    print(f"{'method':<14} {'time':>6} {'memory':>7}  what it does (paper; what trains)")
    for row in rows:
        cost = row["relative_cost"]
        numbers = f"{cost['time']:6.2f} {cost['memory']:7.2f}" if cost else " " * 14
        print(f"{row['name']:<14} {numbers}  {row['summary']} ({row['paper']}; {row['trainable']})")
    print(f"time and peak memory of a training step relative to sft: {measured_on}")
