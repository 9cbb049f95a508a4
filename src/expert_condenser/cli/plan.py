"""`condenser plan --model NAME_OR_DIR --method M --devices N --memory 80GB`: what a training needs, from its config."""

from argparse import ArgumentTypeError
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from expert_condenser.cli.console import put_json, quiet_libraries
from expert_condenser.cli.parsing import Parser, positive
from expert_condenser.errors import UsageError
from expert_condenser.names import HINTS, canonical, unknown

_DESCRIPTION = (
    "Bytes per device on every engine, what fits, what to change first, time and cost. Reads the model's config, no "
    "weights and no data. Beside the options below it takes those of `condenser train`: --config recipe.yaml, --model, "
    "--method, --lora, --dtype, --bf16, --max_length, --per_device_train_batch_size, --gradient_checkpointing, ..."
)
_OWN = (
    *("devices", "memory", "device", "flops_per_device", "utilisation", "price_per_hour", "tokens", "expert_share"),
    *("master_weights", "json"),
)
_WIDTH = 150
"""Of the table, also where no terminal says how wide it is."""
_MASTERS = {"auto": None, "on": True, "off": False}


def run(words: list[str]) -> None:
    """Show the plan of a recipe."""
    own, rest = _divided(words)
    options = _parser().read(own)
    _check_names(rest)
    import torch

    from expert_condenser.planning.plan import make_plan
    from expert_condenser.planning.planner import Machine
    from expert_condenser.planning.units import bytes_of
    from expert_condenser.training.parse import parse_recipe

    quiet_libraries()
    machine = Machine(
        devices=options.devices,
        memory=bytes_of(options.memory),
        device=options.device,
        flops=options.flops_per_device,
        utilisation=options.utilisation,
        price=options.price_per_hour,
    )
    # No row is read. Without an accelerator the recipe of one is refused, unless it says that it knows.
    cpu = [] if torch.accelerator.is_available() else ["--use_cpu", "true"]
    recipe = parse_recipe([*rest, "--data", "none", *cpu])
    plan = make_plan(
        recipe,
        machine,
        tokens=options.tokens,
        expert_share=options.expert_share,
        master_weights=_MASTERS[options.master_weights],
    )
    if options.json is not None:
        put_json(options.json, plan.content(), indent=2)
    if options.json != "-":
        _show(plan)


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of the plan's own flags, and those of the recipe."""
    own: list[str] = []
    rest: list[str] = []
    taking = rest
    for word in words:
        if word.startswith("--") or word == "-h":
            name = canonical(word.partition("=")[0])
            taking = own if name.lstrip("-") in (*_OWN, "help", "h") else rest
        taking.append(word)
    return own, rest


def _check_names(words: list[str]) -> None:
    """Raise `UsageError` on a flag that is neither the plan's nor of a recipe of any method."""
    from expert_condenser.methods import METHODS
    from expert_condenser.training.recipe import option_kinds

    kinds = [kind for method in METHODS for kind in option_kinds(method).values()]
    known = {"config", "verbosity", *_OWN, *(option.name for kind in kinds for option in fields(kind))}
    for word in words:
        name = canonical(word.partition("=")[0])
        if word.startswith("--") and name not in known and name.removeprefix("no_") not in known:
            raise UsageError(HINTS.get(name) or unknown("flag", name, sorted(known)))


def _share(text: str) -> float:
    """A share above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"a number; got {text!r}") from None
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"above 0, at most 1; got {value}")
    return value


def _parser() -> Parser:
    parser = Parser("plan", _DESCRIPTION)
    parser.add_argument("--devices", type=positive, default=1, metavar="N", help="how many devices (1)")
    parser.add_argument("--memory", default="80GB", help="of one device: 80GB, 24GiB (80GB)")
    parser.shared("device", choices=["cuda", "cpu"], default="cuda", help="whose experts implementation (cuda)")
    parser.add_argument(
        "--flops_per_device", type=float, default=400e12, metavar="F", help="per second; 400e12 is one H100 in bfloat16"
    )
    parser.add_argument("--utilisation", type=_share, default=0.3, help="the share of it that training reaches (0.3)")
    parser.add_argument("--price_per_hour", type=float, default=2.0, help="of one device (2.0)")
    parser.add_argument("--tokens", type=positive, metavar="N", help="of the whole training; else those of max_steps")
    parser.add_argument("--expert_share", type=_share, help="of the experts that ESFT trains (top_p, the most it can)")
    parser.add_argument(
        "--master_weights", choices=list(_MASTERS), default="auto", help="float32 weights for the optimizer (auto)"
    )
    parser.shared("json")
    return parser


def _show(plan: Any) -> None:
    from expert_condenser.planning.units import shown

    console = Console(width=max(Console().width, _WIDTH), highlight=False)
    sizes, machine = plan.sizes, plan.machine
    console.print(f"parameters: {sizes.total:,}; of a token {sizes.active:,}; that train {sizes.trainable:,}")
    console.print(f"on each of {machine.devices} devices with {shown(machine.memory)}:")
    table = Table(box=None, pad_edge=False)
    items = list(next(iter(plan.engines.values())).kept.device)
    for name in ("engine", *(item.replace("_", " ") for item in items), "in all", "host", "steps in", "fits"):
        table.add_column(name, justify="left" if name == "engine" else "right", no_wrap=name == "engine")
    for name, outlook in plan.engines.items():
        kept = outlook.kept
        sizes_of_items = (shown(count) if count else "-" for count in (*kept.device.values(), kept.total, kept.host))
        table.add_row(name, *sizes_of_items, kept.precision["step"], _verdict(outlook))
    console.print(table)
    with_, without = plan.activations["with_checkpointing"], plan.activations["without_checkpointing"]
    console.print(f"activations: {shown(with_)} with gradient_checkpointing, {shown(without)} without")
    console.print(
        f"{plan.tokens:,} tokens: {plan.flops:.3g} FLOPs, {plan.seconds / 3600:.3g} hours, cost {plan.cost:.3g}",
        highlight=False,
    )
    for line in plan.advice:
        console.print(f"- {line}")
    for line in plan.warnings:
        console.print(f"warning: {line}", style="yellow")


def _verdict(outlook: Any) -> str:
    if outlook.refused is not None:
        return "refused"
    return "yes" if outlook.fits else "no"
