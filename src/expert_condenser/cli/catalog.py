"""`condenser families` and `condenser methods`: what there is to choose from, a line each or JSON."""

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from expert_condenser.bench.costs import measure_costs
from expert_condenser.methods import METHODS
from expert_condenser.moe.families import FAMILIES, REFUSED

COSTS = "costs.json"
TESTED = "identity when off, the paper's routing, a training step, save and load (tests/test_families.py)"


def families(arguments: list[str]) -> None:
    """Print every family with its routing, or the reason why it is refused."""
    parser = argparse.ArgumentParser(prog="condenser families", description="MoE families and their routing.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README")
    options = parser.parse_args(arguments)
    rows = family_rows()
    if options.json or options.markdown:
        print(json.dumps({"families": rows}, indent=1) if options.json else families_markdown())
        return
    for row in rows:
        mark = "supported" if row["supported"] else "refused"
        print(f"{row['model_type']:<24} {mark:<10} {row['scoring'] or row['reason']}")
    print(f"{len(FAMILIES)} supported, {len(REFUSED)} refused")


def family_rows() -> list[dict[str, Any]]:
    """One row per family, supported ones first, by name."""
    supported = [
        {
            "model_type": name,
            "supported": True,
            "router_class": family.router_class,
            "router_path": family.router,
            "scoring": family.rule.description,
            "native_correction_bias": family.rule.correction is not None,
            "tested": TESTED,
            "reason": None,
        }
        for name, family in sorted(FAMILIES.items())
    ]
    refused = [
        {
            "model_type": name,
            "supported": False,
            "router_class": None,
            "router_path": None,
            "scoring": None,
            "native_correction_bias": None,
            "tested": None,
            "reason": reason,
        }
        for name, reason in sorted(REFUSED.items())
    ]
    return supported + refused


def families_markdown() -> str:
    """The supported families by what their routers compute, and the refused ones, as a Markdown table."""
    scorings = dict.fromkeys(family.rule.description for family in FAMILIES.values())
    rows = [
        (scoring, [f"`{name}`" for name, family in FAMILIES.items() if family.rule.description == scoring])
        for scoring in scorings
    ]
    rows.sort(key=lambda row: (-len(row[1]), row[0]))
    lines = [f"| {scoring} | {', '.join(names)} |" for scoring, names in rows]
    refused = f"| *refused* | {', '.join(f'`{name}`' for name in REFUSED)} |"
    return "\n".join([f"| the router's scores | {len(FAMILIES)} families |", "|---|---|", *lines, refused])


def methods(arguments: list[str]) -> None:
    """Print every method with its paper, what it trains, and its measured cost; or measure the costs again."""
    parser = argparse.ArgumentParser(prog="condenser methods", description="The methods and what they cost.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", metavar="FILE", type=Path, help="measure the costs here, into a JSON file")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each method, in turns (with --measure)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds is at least 2, for a spread; got {options.rounds}")
    if options.measure is not None:
        options.measure.touch()
        costs = measure_costs(options.rounds)
        options.measure.write_text(json.dumps(costs, indent=1) + "\n")
    else:
        costs = committed_costs()
    rows = method_rows(costs)
    if options.json:
        print(json.dumps({"methods": rows, "cost_measured_on": costs["measured_on"]}, indent=1))
        return
    print(f"{'method':<14} {'time':>6} {'memory':>7}  what it does (paper; what trains)")
    for row in rows:
        cost = row["relative_cost"]
        numbers = f"{cost['time']:6.2f} {cost['memory']:7.2f}" if cost else " " * 14
        print(f"{row['name']:<14} {numbers}  {row['summary']} ({row['paper']}; {row['trainable']})")
    print(f"time and peak memory of a training step relative to sft: {costs['measured_on']}")


def method_rows(costs: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per method, in the order of the table `METHODS`."""
    return [
        {
            "name": name,
            "summary": method.summary,
            "paper": method.paper,
            "trainable": method.trainable,
            "phases": list(method.phases),
            "options": list(method.options()),
            "relative_cost": costs["relative_to_sft"].get(name),
        }
        for name, method in METHODS.items()
    ]


def committed_costs() -> dict[str, Any]:
    """The costs measured last, as committed: `condenser methods --measure src/expert_condenser/costs.json`."""
    return json.loads(files("expert_condenser").joinpath(COSTS).read_text())
