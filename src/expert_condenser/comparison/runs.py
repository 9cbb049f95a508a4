"""Finished and evaluated runs, grouped to arms, and the refusal to compare what was not made on equal terms.

A run is a directory with `run.json` and `results.json`; an arm is its runs with all seeds.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.record import RESULTS
from expert_condenser.files import read_json
from expert_condenser.training.record import RUN

KINDS = ("steps", "tokens", "data", "base", "prompts", "items", "seeds")
"""What `--allow` can name: in which of these arms may differ."""
_DATA = ("dataset", "dataset_split", "limit", "data_format", "answer_style")
SEEDS = frozenset({"seed", "data_seed", "selection_seed", "condensers_file"})
"""What differs between the runs of one arm; a condensers_file is that of another run with the same seed."""
_BOOKKEEPING = frozenset(
    {
        *("output_dir", "resume", "overwrite", "resume_from_checkpoint", "run_name", "project", "push_to_hub"),
        *("report_to", "disable_tqdm", "skip_memory_metrics", "include_num_input_tokens_seen", "ddp_timeout"),
        *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataset_num_proc"),
        *("dataloader_prefetch_factor", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics"),
        *("bf16_full_eval", "fp16_full_eval"),
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
    generation: dict[str, Any]
    tasks: dict[str, TaskResult]


@dataclass(frozen=True)
class Arm:
    """A method with its options, and its run of every seed."""

    label: str
    runs: dict[int, Run]


@dataclass(frozen=True)
class Design:
    """What is compared: arms with a run for each of the seeds, and the tasks that all runs were evaluated on."""

    arms: dict[str, Arm]
    seeds: list[int]
    tasks: list[str]
    paired_items: bool
    notes: list[str] = field(default_factory=list)


def read_design(folders: Sequence[Path], *, allow: Collection[str] = (), tasks: Sequence[str] | None = None) -> Design:
    """Read runs and check that they can be compared; what `allow` lets pass goes into the notes."""
    if unknown := sorted(set(allow) - set(KINDS)):
        raise EvaluationError(f"--allow takes {', '.join(KINDS)}; got {', '.join(unknown)}")
    arms = group(read_run(folder) for folder in folders)
    if len(arms) < 2:
        raise EvaluationError(
            f"a comparison needs runs of at least two methods; got {', '.join(arms) or 'no run'}. Name the directories "
            "of their runs."
        )
    shared = sorted(set.intersection(*(set(arm.runs) for arm in arms.values())))
    if not shared:
        raise EvaluationError(f"runs are paired by seed, and no seed is in all arms: {_seeds_of(arms)}")
    names, notes = _tasks(arms, tasks)
    differing = _differences(arms, shared, names)
    if refused := [kind for kind in differing if kind not in allow]:
        lines = "".join(f"\n  {kind}: {differing[kind]}" for kind in refused)
        raise EvaluationError(
            f"methods are compared on equal terms, and these runs differ:{lines}\nTrain and evaluate them alike, or "
            f"pass --allow {','.join(refused)}."
        )
    notes += [f"allowed to differ: {kind}: {text}" for kind, text in differing.items()]
    kept = {label: Arm(label, {seed: arm.runs[seed] for seed in shared}) for label, arm in arms.items()}
    return Design(kept, shared, names, "items" not in differing, notes)


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
    record, results = _read(folder / RUN), _read(folder / RESULTS)
    if record.get("finished") is not True:
        raise EvaluationError(f"only finished runs are compared, and {folder} is not; go on with --resume")
    of_run, of_results = folder / RUN, folder / RESULTS
    method = _get(record, "method", str, of_run)
    name = _get({"arm": method, **record}, "arm", str, of_run)
    config = _get(record, "config", dict, of_run)
    tasks = _get(results, "tasks", dict, of_results)
    return Run(
        folder=folder,
        name=name,
        method=method,
        seed=_get(config, "seed", int, of_run),
        config=config,
        steps=_get(record, "steps", int, of_run),
        tokens=_get(record, "tokens", int, of_run),
        prompts=_get(results, "prompts", str, of_results),
        generation=_get({"generation": {}, **results}, "generation", dict, of_results),
        tasks={task: _task(task, _get(tasks, task, dict, of_results), of_results) for task in tasks},
    )


def _task(name: str, content: dict[str, Any], path: Path) -> TaskResult:
    if "correct_samples" in content:
        raise EvaluationError(
            f"comparisons pair one answer per item; {path}, task {name}, has {content.get('samples')} samples of each. "
            "Evaluate the run with one."
        )
    digits = _get(content, "correct_items", str, path)
    correct = np.array([digit == "1" for digit in digits], dtype=bool)
    counts = {key: _get(content, key, int, path) for key in ("n", "correct")}
    if set(digits) - {"0", "1"} or not digits or counts != {"n": len(digits), "correct": int(correct.sum())}:
        raise EvaluationError(
            f"correct_items has a 0 or 1 for each of n items and `correct` ones; in {path}, task {name}, it has "
            f"{len(digits)} characters with {int(correct.sum())} ones, beside {counts}. Evaluate the run again."
        )
    nll = content.get("nll")
    if nll is not None and (isinstance(nll, bool) or not isinstance(nll, int | float) or not np.isfinite(nll)):
        raise EvaluationError(f"nll is a finite number or null; got {nll!r} in {path}, task {name}. Evaluate again.")
    value = None if nll is None else float(nll)
    return TaskResult(float(correct.mean()), value, _get(content, "items", str, path), correct)


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} holds a JSON object; got a {type(content).__name__}; write it again")
    return content


def _get(content: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        got = f"got {value!r}" if key in content else "it is missing"
        raise EvaluationError(f"{path} has {key!r}, of type {kind.__name__}; {got}. Run it again.")
    return value


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


def _tasks(arms: Mapping[str, Arm], wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The tasks to compare, and a note on those that some runs lack."""
    runs = [run for arm in arms.values() for run in arm.runs.values()]
    every = list(dict.fromkeys(name for run in runs for name in run.tasks))
    common = [name for name in every if all(name in run.tasks for run in runs)]
    if unknown := [name for name in wanted or () if name not in common]:
        raise EvaluationError(f"every run has results on {', '.join(common) or 'no task'}; got {', '.join(unknown)}")
    if not common:
        raise EvaluationError(f"runs are compared on the tasks that all have, and there is none among {every}")
    if wanted:
        return list(dict.fromkeys(wanted)), []
    left = [name for name in every if name not in common]
    return common, [f"left out, since not every run has results on it: {name}" for name in left]


def _differences(arms: Mapping[str, Arm], seeds: Sequence[int], tasks: Sequence[str]) -> dict[str, str]:
    """What differs between which arms, by kind; kinds in which all runs are equal are left out."""
    runs = [arm.runs[seed] for arm in arms.values() for seed in seeds]
    readers: list[tuple[str, str, Callable[[Run], Any]]] = [
        ("steps", "", lambda run: run.steps),
        ("tokens", "", lambda run: run.tokens),
        *(("data", f"{name} = ", _option(name)) for name in _DATA),
        ("base", "", _option("model_name_or_path")),
        ("prompts", "dtype = ", _generation("dtype")),
        ("prompts", "backend = ", _generation("backend")),
        ("prompts", "", lambda run: run.prompts),
        *(("items", f"{task}: ", _items(task)) for task in tasks),
    ]
    if len({run.prompts for run in runs}) > 1:
        keys = sorted({key for run in runs for key in run.generation})
        readers += [("prompts", f"{key} = ", _generation(key)) for key in keys]
    found: dict[str, list[str]] = {}
    for kind, name, read in readers:
        values = {label: {seed: read(arm.runs[seed]) for seed in seeds} for label, arm in arms.items()}
        if _unequal(values, by_seed=kind in ("steps", "tokens")):
            found.setdefault(kind, []).append(name + "; ".join(f"{_show(v)} in {k}" for k, v in values.items()))
    if len({tuple(arm.runs) for arm in arms.values()}) > 1:
        found["seeds"] = [_seeds_of(arms)]
    return {kind: ". ".join(texts) for kind, texts in found.items()}


def _unequal(values: Mapping[str, Mapping[int, Any]], *, by_seed: bool) -> bool:
    """Whether arms differ: at any seed (the order of the data is the seed's), or any two runs at all."""
    rows = [list(map(repr, of_arm.values())) for of_arm in values.values()]
    return any(row != rows[0] for row in rows) if by_seed else len({text for row in rows for text in row}) > 1


def _show(values: Mapping[int, Any]) -> str:
    distinct = list(dict.fromkeys(map(str, values.values())))
    if len(distinct) == 1:
        return distinct[0]
    return ", ".join(f"{value} (seed {seed})" for seed, value in values.items())


def _seeds_of(arms: Mapping[str, Arm]) -> str:
    return "; ".join(f"{', '.join(map(str, arm.runs))} in {label}" for label, arm in arms.items())


def _option(name: str) -> Callable[[Run], Any]:
    return lambda run: run.config.get(name)


def _generation(key: str) -> Callable[[Run], Any]:
    return lambda run: run.generation.get(key)


def _items(task: str) -> Callable[[Run], Any]:
    return lambda run: f"{run.tasks[task].correct.size} items ({run.tasks[task].items[:12]})"
