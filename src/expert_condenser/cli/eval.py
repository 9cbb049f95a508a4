"""`condenser eval`: answer the questions of tasks with a model, score them, keep every answer."""

import argparse
import datetime
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expert_condenser.clearing import Kind
from expert_condenser.cli.console import progress, quiet_libraries, say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.generation import Generation
from expert_condenser.ownership import ending_on_sigterm
from expert_condenser.workfolder import WorkFolder

BACKENDS = ("transformers", "vllm", "lm_eval")
MODES = ("generate", "likelihood", "teacher_forced")
DTYPES = ("float32", "bfloat16", "float16")


def run(words: list[str]) -> None:
    """Evaluate a model on tasks; an evaluation that was killed goes on where it was."""
    options = _read(words)
    # Once the words are right: what computes takes seconds to import.
    from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
    from expert_condenser.evaluation.evaluate import check_mode, evaluate
    from expert_condenser.evaluation.settings import Asking
    from expert_condenser.evaluation.tasks import load_tasks

    quiet_libraries()
    for device in _devices(options.device):
        _check_device(device)
    names = list(dict.fromkeys(options.tasks.split(",")))
    tasks = load_tasks(dict.fromkeys(names, options.limit), options.data, options.split)
    generation = Generation(**{field.name: getattr(options, field.name) for field in fields(Generation)})
    check_mode(options.mode, tasks, generation)
    path = resolve_model(options.model)
    tokenizer = load_tokenizer(path)
    if options.chat_template is not None:
        tokenizer.chat_template = options.chat_template.read_text()
    backend = _backend(options, path, tokenizer, tasks, generation)
    start = time.perf_counter()
    total = generation.samples * sum(len(task.questions) for task in tasks)
    with ExitStack() as stack:
        stack.enter_context(ending_on_sigterm())
        stack.enter_context(WorkFolder(options.output_dir, Kind("eval")))
        advance = stack.enter_context(progress("answers", total))
        results = evaluate(
            stack.enter_context(backend) if len(_devices(options.device)) > 1 else backend,
            tokenizer,
            tasks,
            options.output_dir,
            generation,
            advance=advance,
            asking=Asking(options.mode, options.date),
        )
    Console().print(results_table(results, path))
    Console(stderr=True).print(f"{time.perf_counter() - start:.0f} s with loading; every answer is kept")
    say_result(options.output_dir / "results.json")


def _devices(named: str | None) -> list[str]:
    """The devices that `--device` names; none where it names none, and one is found."""
    return named.split(",") if named else []


def _backend(options: argparse.Namespace, path: str, tokenizer: Any, tasks: Any, generation: Generation) -> Any:
    import torch

    from expert_condenser.evaluation.backends.lm_eval import LmEvalBackend
    from expert_condenser.evaluation.backends.local import LocalBackend
    from expert_condenser.evaluation.backends.spread import SpreadBackend
    from expert_condenser.evaluation.backends.vllm import VllmBackend
    from expert_condenser.kernels.buffers import keep_freed_memory

    if options.backend == "vllm":
        return VllmBackend(path, tokenizer, dtype=options.dtype)
    if len(_devices(options.device)) > 1:
        return SpreadBackend(path, tokenizer, _devices(options.device), dtype=options.dtype)
    if options.device == "cpu" or not torch.accelerator.is_available():
        keep_freed_memory()  # of this process alone, which evaluates and ends
    local = LocalBackend(path, tokenizer, dtype=options.dtype, device=options.device)
    if options.backend == "lm_eval":
        return LmEvalBackend(local, tasks, generation, options.output_dir / "lm_eval")
    return local


def results_table(results: dict[str, Any], title: str) -> Table:
    """A row per task, and the throughput of this session below."""
    tasks = results["tasks"]
    table = Table(title=title, caption=escape("\n".join(_captions(results))))
    rows = {name: _chosen(task) if "acc" in task else _generated(task) for name, task in tasks.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    for name in ["task", "items", *columns]:
        table.add_column(name, justify="left" if name == "task" else "right")
    for name, row in rows.items():
        table.add_row(name, str(tasks[name]["n"]), *(row.get(column, "") for column in columns))
    return table


def _generated(task: dict[str, Any]) -> dict[str, str]:
    """Column -> cell of a task whose answers were written."""
    if "nll_items" in task:  # forced, so nothing was searched for an answer or cut
        return {"accuracy": f"{task['accuracy']:.1%}", "nll": _nll(task)}
    answers = task["n"] * task.get("samples", 1)
    row = {
        "accuracy": f"{task['accuracy']:.1%}",
        "answer found": f"{task['extracted'] / answers:.1%}",
        "cut": str(task["cut"]),
        "nll": _nll(task),
    }
    if "pass_at_k" in task:
        row["pass@k"] = "  ".join(f"@{k} {value:.1%}" for k, value in task["pass_at_k"].items())
    return row


def _chosen(task: dict[str, Any]) -> dict[str, str]:
    """Column -> cell of a task whose answers are the most likely options."""
    return {**{rule: f"{task[rule]:.1%}" for rule in ("acc", "acc_norm", "acc_answer")}, "nll": _nll(task)}


def _nll(task: dict[str, Any]) -> str:
    return "" if task["nll"] is None else f"{task['nll']:.3f}"


def _captions(results: dict[str, Any]) -> Iterator[str]:
    for name, task in results["tasks"].items():
        scores = dict(task.get("lm_eval", {}))
        if version := scores.pop("version", None):
            rules = ", ".join(f"{rule} {value:.1%}" for rule, value in scores.items())
            yield f"{name} by the rules of lm-eval {version}: {rules}"
        if task.get("comparison") == "layout":
            yield f"{name} was compared by layout alone: pip install 'expert-condenser[eval]' for algebra"
    rate = results["throughput"]["tokens_per_s"]
    if rate is not None:
        yield f"{results['throughput']['new_tokens']} tokens generated, {rate:.0f} per second"


def _check_device(name: str) -> None:
    if name == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EvaluationError(f"--device names a device of this machine; got {name!r}. {error}") from error


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("eval", "Evaluate a model on tasks; one that was killed goes on.", {"out": "output_dir"})
    parser.shared("model", required=True)
    parser.add_argument("--tasks", required=True, help="names, with commas between them; a wrong one lists all")
    parser.shared("data", type=Path, help="a directory of data files, or the one file of one task; default: hub")
    parser.shared("split", default="test", help="split of hub data sets and of testbed families")
    parser.shared("limit", help="the first N items of each task")
    parser.shared("output_dir", required=True, help="where answers and results go, or go on")
    parser.add_argument("--backend", choices=BACKENDS, default="transformers")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="likelihood: the most likely option is the answer; teacher_forced: is the reference what would be written",
    )
    parser.add_argument("--batch_size", type=int, default=Generation.batch_size)
    parser.add_argument("--max_new_tokens", type=int, help="default: as many as the task needs")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.shared("device", help="cpu, cuda, ...; several, with commas between them, share the questions")
    parser.add_argument("--samples", type=int, default=1, help="answers to each question, for pass@k")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.shared("seed", default=0, help="of sampling")
    parser.add_argument("--date", type=datetime.date.fromisoformat, help="YYYY-MM-DD, the day that the template shows")
    parser.add_argument("--chat_template", type=Path, help="a Jinja file, in place of the tokenizer's")
    options = parser.read(words)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise EvaluationError(f"--limit is 1 or more; got {options.limit}")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise EvaluationError(f"--output_dir is a directory; got the file {options.output_dir}")
    if options.mode != "generate" and options.backend != "transformers":
        raise EvaluationError(
            f"--mode {options.mode} needs --backend transformers; {options.backend} only generates here"
        )
    if options.device is not None and options.backend == "vllm":
        raise EvaluationError("vLLM chooses its devices itself: set CUDA_VISIBLE_DEVICES and leave --device out")
    if len(_devices(options.device)) > 1 and options.backend != "transformers":
        raise EvaluationError(
            f"several devices need --backend transformers; got {options.backend} and {options.device}"
        )
    if options.chat_template is not None and not options.chat_template.is_file():
        raise EvaluationError(f"--chat_template is a Jinja file; got {options.chat_template}")
