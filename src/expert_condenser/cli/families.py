"""`condenser families`: which models there is routing for, a line each, as JSON or as a Markdown table."""

from typing import Any

from expert_condenser.cli.catalog import catalog
from expert_condenser.cli.console import put_json
from expert_condenser.cli.parsing import Parser
from expert_condenser.surgery.unprunable import UNPRUNABLE


def run(words: list[str]) -> None:
    """Print every family with its routing, or the reason why it is refused."""
    parser = Parser("families", "MoE families and their routing.")
    parser.shared("json")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/families.md")
    parser.add_argument("--export", action="store_true", help="print what each family's tuned models export to")
    parser.add_argument("--pruning", action="store_true", help="print which families `condenser prune` takes")
    options = parser.read(words)
    rows = [{**row, "prunable": is_prunable(row)} for row in catalog()["families"]]
    if options.json is not None:
        put_json(options.json, {"families": rows}, indent=1)
    elif options.export:
        from expert_condenser.export.gguf_table import gguf_table  # takes seconds to import

        print(exports(rows), gguf_table(), sep="\n\n")
    elif options.pruning:
        print(prunings(rows))
    elif options.markdown:
        print(markdown(rows))
    else:
        for row in rows:
            mark = "supported" if row["supported"] else "refused"
            print(f"{row['model_type']:<24} {mark:<10} {row['scoring'] or row['reason']}")
        count = sum(row["supported"] for row in rows)
        print(f"{count} supported, {len(rows) - count} refused")


def is_prunable(row: dict[str, Any]) -> bool:
    """Whether models of a family can have fewer experts."""
    return row["supported"] and row["model_type"] not in UNPRUNABLE


def prunings(rows: list[dict[str, Any]]) -> str:
    """Which families `condenser prune` takes, as the Markdown table of docs/pruning.md."""
    names = [f"`{row['model_type']}`" for row in rows if is_prunable(row)]
    refused = [f"| `{name}` | {reason} |" for name, reason in sorted(UNPRUNABLE.items())]
    return "\n".join(["| families | can be pruned |", "|---|---|", f"| {', '.join(names)} | yes |", *refused])


def exports(rows: list[dict[str, Any]]) -> str:
    """Which families have an exact checkpoint of their stock type, as the Markdown table of docs/serving.md."""
    by_outcome: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["supported"]:
            name, found = row["model_type"], row["export"].values()
            native, half = (text.replace(name, "the family") for text in found)
            by_outcome.setdefault((native, "" if half == native else half), []).append(f"`{name}`")
    lines = [
        f"| {', '.join(names)} | {native} | {half or native} |" for (native, half), names in sorted(by_outcome.items())
    ]
    return "\n".join(["| families | native, float32 | native, bfloat16 |", "|---|---|---|", *lines])


def markdown(rows: list[dict[str, Any]]) -> str:
    """The supported families by what their routers compute, and the refused ones, as a Markdown table."""
    supported = [row for row in rows if row["supported"]]
    by_scoring: dict[str, list[str]] = {}
    for row in supported:
        by_scoring.setdefault(row["scoring"], []).append(f"`{row['model_type']}`")
    ordered = sorted(by_scoring.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [f"| {scoring} | {', '.join(names)} |" for scoring, names in ordered]
    refused = ", ".join(f"`{row['model_type']}`" for row in rows if not row["supported"])
    head = [f"| the router's scores | {len(supported)} families |", "|---|---|"]
    return "\n".join([*head, *lines, f"| *refused* | {refused} |"])
