"""`condenser simulate USAGE.json ...`: the routing of real usage on machines that are not here."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.cli.console import put_json, say_result
from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.errors import UsageError

_DESCRIPTION = (
    "How real routing would load the ranks of expert parallelism, and what a token would send: plain fine-tuning, "
    "condensers that every rank has a copy of, condensers on their owners alone, and the least used experts pruned. "
    "docs/simulation.md says how, and what it leaves out."
)
_WIDTH = 150
"""Of the table, also where no terminal says how wide it is."""


def run(words: list[str]) -> None:
    """Simulate, and show a table."""
    options = _parser().read(words)
    if options.plot is not None and options.plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot writes an SVG file, whose name ends in .svg; got {options.plot}")
    from expert_condenser.planning.routing import Scenario, simulate
    from expert_condenser.planning.usage_files import read_usage

    asked = {name: getattr(options, name) for name in (f.name for f in fields(Scenario))}
    asked |= {name: tuple(asked[name]) for name in ("experts", "ranks")}
    found = simulate([read_usage(path) for path in options.usage], Scenario(**asked))
    if options.json is not None:
        put_json(options.json, found.content(), indent=2)
    if options.plot is not None:
        from expert_condenser.report.routing_curves import plot_routing

        plot_routing(found, options.plot)
        say_result(options.plot)
    if options.json != "-":
        Console(width=_WIDTH).print(_table(found))


def _table(found: Any) -> Table:
    tail = ", ".join(f"{share:.1%} of {experts}" for experts, share in found.tail_share.items())
    caption = f"the pruned experts had these shares of all choices: {tail}"
    table = Table(title=f"K = {found.top_k}, usage of {', '.join(found.files)}", caption=caption)
    columns = ("experts", "ranks", "case", "busiest rank / mean", "in the worst layer", "slots sent")
    for name in (*columns, "kB per token", "traffic", "experts held"):
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=name == "case")
    for row in found.rows:
        numbers = f"{row.imbalance:.2f}", f"{row.imbalance_worst_layer:.2f}", f"{row.routed_slots:g}"
        sent = f"{row.bytes_per_token / 1000:.1f}", f"{row.traffic:.0%}", f"{row.experts_held:.1f}"
        table.add_row(str(row.experts), str(row.ranks), row.case, *numbers, *sent)
    return table


def _parser() -> Parser:
    parser = Parser("simulate", _DESCRIPTION)
    parser.add_argument("usage", type=Path, nargs="+", help="files of counts: JSON, or a run's usage.safetensors")
    parser.add_argument("--experts", type=positive, nargs="+", default=[64, 128, 256, 512], metavar="E")
    parser.add_argument("--ranks", type=positive, nargs="+", default=[8, 16, 32, 64, 128, 256, 512], metavar="N")
    parser.add_argument("--top_k", type=positive, metavar="K", help="slots of a token (that of the files)")
    parser.add_argument("--num_condensers", type=int, default=1, metavar="R", help="per layer (1)")
    parser.add_argument("--pruned", type=float, default=0.25, help="share of the experts that is pruned (0.25)")
    parser.add_argument("--hidden_size", type=positive, default=2048, metavar="D", help="numbers of a token (2048)")
    parser.add_argument("--itemsize", type=positive, default=2, metavar="B", help="bytes of a number (2)")
    parser.add_argument("--orders", type=positive, default=20, metavar="O", help="random orders of experts (20)")
    parser.shared("seed", default=0, help="of the orders")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="curves")
    parser.shared("json")
    return parser
