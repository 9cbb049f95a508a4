"""`condenser bench layer|train|generate`: arms side by side, as a table and as JSON; `show` prints such files again."""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from expert_condenser.bench.tables import markdown, report_table
from expert_condenser.cli.catalog import catalog
from expert_condenser.cli.console import progress, put_json
from expert_condenser.cli.parsing import Parser, at_least, positive
from expert_condenser.errors import BenchmarkError, DataError, UsageError
from expert_condenser.files import read_json, write_json

DEFAULT_ARMS = {
    "layer": None,
    "train": ["sft", "condenser", "densemixer", "densemixer_lean", "esft_gate", "authors_double", "experts:grouped_mm"],
    "generate": ["sft", "condenser", "experts:eager", "experts:grouped_mm", "experts:ours"],
}
"""What each workload compares; None is every arm that has a name of its own."""
SIZES = {
    "tokens": "T", "experts": "E", "top_k": "K", "hidden": "D", "intermediate": "I", "layers": "L"
}  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")


def run(words: list[str]) -> None:
    """Run one benchmark, or one per value of `--sweep`; or print reports as Markdown."""
    if words[:1] == ["show"] and not {"-h", "--help"} & set(words):
        _show([Path(word) for word in words[1:]])
        return
    options = _parser().read(words)
    # Here and below, once the words are right: what computes takes seconds to import.
    from expert_condenser.bench.arms import ARMS, arms_of

    shapes = _shapes(options)
    names = options.arms.split(",") if options.arms else DEFAULT_ARMS[options.workload] or list(ARMS)
    arms_of(names)
    device = _device(options)
    if options.processes is not None:
        _compare_processes(options, shapes[0], device)
        return
    file = None if options.json in (None, "-") else Path(options.json)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # an unwritable file is found before an hour is spent
    reports: list[dict[str, Any]] = []
    for shape in shapes:
        reports.append({"shape_name": options.shape, **_measured(options, shape, names, device)})
        if options.json != "-":
            _print(reports[-1])
        content = reports[0] if options.sweep is None else {"sweep": options.sweep, "reports": reports}
        if file is not None:
            write_json(file, content, indent=1)  # after every shape: a sweep that is stopped leaves what it has
    if options.json is not None:
        put_json(options.json, content, indent=1)


def _compare_processes(options: argparse.Namespace, shape: Any, device: str) -> None:
    """A training step in several processes, beside one."""
    import torch

    from expert_condenser.bench.processes import compare_processes

    if options.workload != "train" or options.sweep is not None or "," in (options.arms or ""):
        raise UsageError("--processes goes with the workload train, one arm and no --sweep")
    threads = options.threads or max(1, torch.get_num_threads() // options.processes)
    setting = _setting(options, shape, device)
    lengths = {"processes": options.processes, "threads": threads, "rounds": options.rounds}
    report = compare_processes(options.arms or "condenser", setting, **lengths)
    if options.json is not None:
        put_json(options.json, {"shape_name": options.shape, **report}, indent=1)
    if options.json != "-":
        one, several = report["one_process_tokens_per_s"], report["tokens_per_s"]
        print(f"1 process, {threads} threads: {one:,.0f} tokens/s")
        print(f"{options.processes} processes of as many: {several:,.0f} tokens/s, {report['ratio']:.2f} of it")


def _setting(options: argparse.Namespace, shape: Any, device: str) -> Any:
    """What all arms have in common."""
    import torch

    from expert_condenser.bench.arms import IMPLEMENTATIONS
    from expert_condenser.bench.workloads import Setting
    from expert_condenser.moe.experts import default_implementation

    experts = options.experts_implementation or default_implementation(device.partition(":")[0]) or "grouped_mm"
    return Setting(shape, device, getattr(torch, options.dtype), IMPLEMENTATIONS[experts])


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 140)
    table, notes = report_table(report)
    console.print(table, *notes, sep="\n")


def _show(files: list[Path]) -> None:
    if not files:
        raise UsageError("bench show takes files that --json wrote, and got none; name them")
    for file in files:
        try:
            table = markdown(read_report(file))
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
            raise BenchmarkError(f"show prints files that --json wrote; {file} is damaged: {error!r}") from error
        print(table)


def _device(options: argparse.Namespace) -> str:
    """The device to measure on, with the process set up as the flags say."""
    import torch

    from expert_condenser.kernels.buffers import keep_freed_memory

    device = options.device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if device != "cpu" and not torch.accelerator.is_available():
        raise BenchmarkError(
            f"--device names a device of this machine, which has a CPU only; got {device!r}. Leave --device out."
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.keep_freed_memory and not keep_freed_memory():
        raise BenchmarkError(
            "--keep_freed_memory is a setting of glibc, and this system has another library; leave it out"
        )
    return device


def _measured(options: argparse.Namespace, shape: Any, names: list[str], device: str) -> dict[str, Any]:
    """The report of a benchmark on one `Shape`."""
    from expert_condenser.bench.benchmark import benchmark

    setting = _setting(options, shape, device)
    length = {"rounds": options.rounds, "seconds": options.seconds}
    with progress(f"{options.workload}: rounds", options.rounds) as advance:
        return benchmark(options.workload, names, setting, **length, advance=advance)


def read_report(path: Path) -> dict[str, Any]:
    """A file that `--json` wrote; raises `BenchmarkError` where it is none."""
    try:
        content: dict[str, Any] = read_json(path)
        if not {"arms", "reports"} & content.keys():
            raise ValueError("it has neither arms nor reports")
    except (DataError, ValueError, AttributeError) as error:
        raise BenchmarkError(f"show prints files that --json wrote; {path}: {error}") from error
    return content


def _parser() -> Parser:
    known = catalog()
    parser = Parser("bench", "Arms side by side, in one process, in turns.")
    parser.add_argument(
        "workload", choices=list(DEFAULT_ARMS), help="one MoE layer, a training step, generation; or show FILE ..."
    )
    parser.add_argument("--shape", choices=known["shapes"], default="small", help="the sizes of a model")
    parser.add_argument(
        "--arms", help="names with commas: " + ", ".join(known["arms"]) + "; a method; either with @experts"
    )
    parser.shared("json", help="the report as JSON, to a file or else to stdout, in place of the table")
    parser.shared("device")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and activations")
    parser.add_argument(
        "--experts_implementation", choices=known["experts"], help="of the arms that name none; default: ours"
    )
    parser.add_argument(
        "--rounds", type=partial(at_least, 2), default=7, help="timed calls of each arm, at most; two for a spread"
    )
    parser.add_argument("--seconds", type=float, default=35.0, help="start no round after about this time")
    parser.add_argument("--processes", type=partial(at_least, 2), help="a training step by DDP, beside one process")
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument("--keep_freed_memory", action="store_true", help="for all arms, as `condenser train` on a CPU")
    parser.add_argument("--sweep", metavar="SIZE=A,B,...", help=f"one run per value of a size: {', '.join(SIZES)}")
    for name, letter in SIZES.items():
        parser.add_argument(f"--{name}", type=positive, help=f"{letter} in place of the shape's")
    return parser


def _shapes(options: argparse.Namespace) -> list[Any]:
    """The `Shape` that is asked for, or one per value of `--sweep`."""
    from expert_condenser.bench.shapes import SHAPES

    changes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    shape = _changed(SHAPES[options.shape], changes)
    if options.sweep is None:
        shapes = [shape]
    else:
        name, _, values = options.sweep.partition("=")
        name = name.replace("-", "_")
        if name not in SIZES or not all(value.isdigit() and int(value) for value in values.split(",")):
            raise BenchmarkError(f"--sweep is SIZE=A,B,... with a size of {', '.join(SIZES)}; got {options.sweep!r}")
        shapes = [_changed(shape, {name: int(value)}) for value in values.split(",")]
    for one in shapes:
        if one.top_k > one.experts:
            raise BenchmarkError(
                f"a token has at most as many experts as there are: K = {one.top_k}, E = {one.experts}; lower --top_k"
            )
    return shapes


def _changed(shape: Any, sizes: dict[str, Any]) -> Any:
    """A shape with other sizes."""
    return dataclasses.replace(shape, **sizes)
