"""Finished and evaluated runs, grouped to arms. An arm is a method with its options: its runs with all seeds.

A run is a directory with `run.json` and `results.json`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.training.record import RUN, RunRecord

SEEDS = frozenset({"seed", "data_seed", "selection_seed", "condensers_file"})
"""What differs between the runs of one arm; a condensers_file is that of another run with the same seed."""
_BOOKKEEPING = frozenset(
    {
        *("output_dir", "resume", "overwrite", "resume_from_checkpoint", "run_name", "project", "push_to_hub"),
        *("report_to", "disable_tqdm", "skip_memory_metrics", "include_num_input_tokens_seen", "ddp_timeout"),
        *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataset_num_proc"),
        *("dataloader_prefetch_factor", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics"),
        *("bf16_full_eval", "fp16_full_eval", "device_map", "use_cpu"),
        *("ddp_backend", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
    }
)
_BOOKKEEPING_PREFIXES = ("eval_", "log_", "logging_", "save_", "hub_", "trackio_", "do_")


@dataclass(frozen=True)
class TaskResult:
    """The answers of one run to one task."""

    accuracy: float
    nll: float | None
    items: str
    """Hash of the items' prompts and golds."""
    correct: Bool[np.ndarray, " N"]
    prompts: str | None = None
    """Hash of template, decoding and limit; None where the results do not say."""
    nll_items: Float[np.ndarray, " N"] | None = None
    """Nats over all tokens of every item's reference; None where the results have no nll of single items."""
    token_items: Float[np.ndarray, " N"] | None = None
    """Tokens of every item's reference; None as above."""


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation."""

    folder: Path
    name: str
    """The arm that `run.json` names, or the method."""
    method: str
    seed: int
    config: dict[str, Any]
    steps: int
    tokens: int
    prompts: str
    """Hash of template, decoding and limits of all tasks together."""
    generation: dict[str, Any]
    tasks: dict[str, TaskResult]
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured besides answers: KL to the base, relearning."""
    rows: str | None = None
    """Digest of the rows that were trained on; None in runs from before 0.2."""


@dataclass(frozen=True)
class Arm:
    """A method with its options, and its run of every seed."""

    label: str
    runs: dict[int, Run]


def group(runs: Iterable[Run]) -> dict[str, Arm]:
    """Arms by label, in the order of their first runs: the runs whose options are equal but for seeds and bookkeeping.

    The label is the arm or method that the runs name, with the options in which arms of this name differ.
    """
    found: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        found.setdefault(run.name, {}).setdefault(json.dumps(_options(run), sort_keys=True), []).append(run)
    arms = {}
    for name, groups in found.items():
        options = [_options(members[0]) for members in groups.values()]
        differing = [key for key in sorted(set().union(*options)) if len({repr(o.get(key)) for o in options}) > 1]
        for members, values in zip(groups.values(), options, strict=True):
            label = " ".join([name, *(f"{key}={values.get(key)}" for key in differing)])
            arms[label] = Arm(label, _by_seed(label, members))
    return arms


def read_run(folder: Path) -> Run:
    """Read one run; raises `EvaluationError` where it is not finished, not evaluated, or malformed."""
    for name, remedy in ((RUN, "train it with `condenser train`"), (RESULTS, "evaluate it first")):
        if not (folder / name).is_file():
            raise EvaluationError(f"a run is a directory with {RUN} and {RESULTS}; {folder} has no {name}: {remedy}")
    record, results = RunRecord.read(folder / RUN), Results.read(folder / RESULTS)
    if not record.finished:
        raise EvaluationError(f"only finished runs are compared, and {folder} is not; go on with --resume")
    read = _reader(vars(record), folder / RUN)
    return Run(
        folder=folder,
        name=record.arm or record.method,
        method=record.method,
        seed=_reader(record.config, folder / RUN)("seed", int),
        config=record.config,
        steps=read("steps", int),
        tokens=read("tokens", int),
        prompts=results.prompts,
        generation=results.generation,
        tasks={name: read_task(name, content, folder / RESULTS) for name, content in results.tasks.items()},
        measures=results.measures,
        rows=(record.data or {}).get("digest"),
    )


def read_task(name: str, content: dict[str, Any], path: Path) -> TaskResult:
    """A task's entry of `results.json`; raises `EvaluationError` where it is malformed."""
    if "correct_samples" in content:
        raise EvaluationError(
            f"comparisons pair one answer per item; {path}, task {name}, has {content.get('samples')} samples of each. "
            "Evaluate the run with one."
        )
    read = _reader(content, path)
    digits = read("correct_items", str)
    correct = np.array([digit == "1" for digit in digits], dtype=bool)
    counts = {key: read(key, int) for key in ("n", "correct")}
    if set(digits) - {"0", "1"} or not digits or counts != {"n": len(digits), "correct": int(correct.sum())}:
        raise EvaluationError(
            f"correct_items has a 0 or 1 for each of n items and `correct` ones; in {path}, task {name}, it has "
            f"{len(digits)} characters with {int(correct.sum())} ones, beside {counts}. Evaluate the run again."
        )
    nll = content.get("nll")
    # A whole number may have more digits than a float: compared it can be, and not converted.
    if nll is not None and not (type(nll) in (int, float) and abs(nll) <= sys.float_info.max):
        raise EvaluationError(f"nll is a finite number or null; got {nll!r} in {path}, task {name}. Evaluate again.")
    value = None if nll is None else float(nll)
    for key in ("nll_items", "token_items", "prompts"):
        if not isinstance(content.get(key), str | None):
            raise EvaluationError(f"{key} is a text; got {content[key]!r} in {path}, task {name}. Evaluate again.")
    items, tokens = _numbers(content.get("nll_items")), _same_numbers(content.get("token_items"))
    for key, values in (("nll_items", items), ("token_items", tokens)):
        if values is not None and (values.size != len(digits) or not np.isfinite(values).all()):
            raise EvaluationError(
                f"{key} has a finite number for each of {len(digits)} items, with blanks between them; in {path}, task "
                f"{name}, it has {values.size}. Evaluate the run again."
            )
    return TaskResult(float(correct.mean()), value, read("items", str), correct, content.get("prompts"), items, tokens)


def _numbers(text: Any) -> Float[np.ndarray, " N"] | None:
    """The numbers of every item, which stand in one text; none where it is no such text."""
    if text is None:
        return None
    try:
        return np.array(str(text).split(), dtype=np.float64)
    except ValueError:
        return np.array([])


_same_numbers = lru_cache(_numbers)
"""For what is the same text in every run, which is read once."""


def _reader(content: Mapping[str, Any], path: Path) -> Callable[[str, type], Any]:
    """Reads a key's value; raises `EvaluationError` where it is missing or of another type."""

    def read(key: str, kind: type) -> Any:
        value = content.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            got = f"got {value!r}" if key in content else "it is missing"
            raise EvaluationError(f"{path} has {key!r}, of type {kind.__name__}; {got}. Run it again.")
        return value

    return read


def _options(run: Run) -> dict[str, Any]:
    """The options that change what a run computes, apart from its seeds; one without a value is as if not there.

    So is `one_phase` where it is off: runs from before an option existed are of the same arm.
    """
    ignored = SEEDS | _BOOKKEEPING | {name for name, value in run.config.items() if value is None or value is False}
    return {k: v for k, v in run.config.items() if k not in ignored and not k.startswith(_BOOKKEEPING_PREFIXES)}


def _by_seed(label: str, runs: Sequence[Run]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in runs:
        if run.seed in found:
            raise EvaluationError(
                f"an arm has one run of each seed; {label} with seed {run.seed} is in {found[run.seed].folder} and in "
                f"{run.folder}. Leave one out."
            )
        found[run.seed] = run
    return dict(sorted(found.items()))
