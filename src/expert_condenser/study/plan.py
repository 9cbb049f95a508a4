"""What a study is: a YAML file that says which runs there are; read and checked whole before any run begins.

    base: testbed                       # hub name or directory; ./DIR and ../DIR are relative to the file
    recipe: finetune.yaml               # optional: options of every run, as for `condenser train`
    options: {num_train_epochs: 2}      # more of them
    seeds: [1, 2, 3]
    arms:
      sft: {method: sft}
      condenser: {method: condenser, bias_step: 5.0e-3}
      halfway: {method: sft, interpolate: 0.5}  # evaluated at this share of the way from the base to the run's result
    grid: {learning_rate: [1.0e-4, 2.0e-4]}     # optional: every arm with every combination
    tuned_by: ../sweep                  # optional: another study, whose best grid options every arm takes
    tuned_as: {condenser_r3: condenser} # optional: arms that take those of another arm of that study
    evaluate:
      {split: test, tasks: {gsm8k: 300, boolq: 100}, batch_size: 64, data: DIR, max_new_tokens: 64}
                                        # also modes, kl_to_base, relearning: see `study.evaluation`
    learn: [gsm8k]                      # optional: what the runs are to learn; by default the first task
    known: [boolq]                      # optional: what the base knew before; by default all other tasks
    baseline: sft                       # optional: the arm that tables compare with
    beside: {../ladder: [sft]}          # optional: arms of other studies that tables show too
    groups: {tail: [gcd, aiw]}          # optional: means over tasks that tables show too
    contrasts: {fair: {arm: condenser, against: [two_phase_sft]}}      # optional: see `study.contrasts`
    allow: [data]                       # optional: in what arms may differ, as for `condenser compare`
    keep_models: false                  # optional: weights of finished runs, and every answer, stay on disk
    executor_options: {partition: gpu, timeout_min: 60, gpus_per_node: 1}   # optional: of every job, see `study.jobs`

`recipe`, `tuned_by` and `beside` are relative to the file, paths among the options to where the command runs. `{seed}`
in a text among the options is the run's seed.
"""

import itertools
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.files import local_path
from expert_condenser.study.contrasts import Contrast, check_contrasts, read_contrasts
from expert_condenser.study.evaluation import Evaluation, read_evaluation
from expert_condenser.study.kinds import check_kinds
from expert_condenser.yaml_file import read_yaml

BEFORE, NOW = "learnt before", "learnt now"
"""The means over what the base knew, and over what the runs are to learn where that is several tasks."""
INTERPOLATE = "interpolate"
_OWN = {"model", "model_name_or_path", "output_dir", "seed", "overwrite", "resume"}


@dataclass(frozen=True)
class Study:
    """A study file, checked."""

    base: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]
    evaluate: Evaluation
    recipe: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    tuned_by: Path | None = None
    tuned_as: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None
    beside: Mapping[str, list[str]] = field(default_factory=dict)
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    learn: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    allow: tuple[str, ...] = ()
    keep_models: bool = False
    executor_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first_task(self) -> str:
        """The task that the runs train on, or the first of them."""
        return self.learn_tasks[0]

    @property
    def learn_tasks(self) -> list[str]:
        """What the runs are to learn."""
        return list(self.learn) or list(self.evaluate.tasks)[:1]

    @property
    def known_tasks(self) -> list[str]:
        """What the base knew before."""
        return list(self.known) or [task for task in self.evaluate.tasks if task not in self.learn_tasks]

    @property
    def named_groups(self) -> dict[str, list[str]]:
        """Means over tasks: what is learnt, where that is several tasks; what was learnt before; the study's own."""
        now = {NOW: self.learn_tasks} if len(self.learn_tasks) > 1 else {}
        before = {BEFORE: self.known_tasks} if self.known_tasks else {}
        return {**now, **before, **self.groups}

    @property
    def learnt(self) -> str:
        """What tables call the score on what is to be learnt: its task, or the group of them."""
        return NOW if len(self.learn_tasks) > 1 else self.first_task

    @property
    def base_cell(self) -> "Cell":
        """The base model itself, evaluated and not trained: what is forgotten is measured against it."""
        return Cell(self, "base", None, {}, {})

    def cells(self) -> list["Cell"]:
        """Every run, seed by seed, so that a study that is cut short has all arms of its first seeds."""
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        tuned = {} if self.tuned_by is None else best_options(self.tuned_by)
        return [
            Cell(self, arm, seed, _of_seed({**self._tuned(arm, tuned), **recipe, **point}, seed), point, alpha)
            for seed in self.seeds
            for arm, (recipe, alpha) in {arm: _parted(options) for arm, options in self.arms.items()}.items()
            for point in points
        ]

    def _tuned(self, arm: str, tuned: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        name = self.tuned_as.get(arm, arm)
        if self.tuned_by is not None and name not in tuned:
            raise EvaluationError(
                f"every arm is tuned, and the study {self.tuned_by} has no arm {name!r} (it has {', '.join(tuned)}); "
                f"add `tuned_as: {{{arm}: ...}}`"
            )
        return tuned.get(name, {})


@dataclass(frozen=True)
class Cell:
    """One run: an arm at one point of the grid, with one seed; without a seed, the base model."""

    study: Study
    arm: str
    seed: int | None
    options: Mapping[str, Any]
    point: Mapping[str, Any]
    interpolated: float | None = None
    """What is evaluated lies at this share of the way from the base to what was trained; None: that itself."""

    @property
    def label(self) -> str:
        """The arm, with its point of the grid."""
        return " ".join([self.arm, *(f"{name}={value}" for name, value in self.point.items())])

    @property
    def folder(self) -> Path:
        """Where the run is, within the study's folder."""
        if self.seed is None:
            return Path(self.arm)
        parts = [f"{name}={value}".replace("/", "_") for name, value in self.point.items()]
        return Path("runs", self.arm, *parts, f"seed{self.seed}")


def read_study(path: Path) -> Study:
    """The study in a YAML file. Raises `EvaluationError` on a wrong key or a wrong kind of value."""
    try:
        content = read_yaml(path)
    except DataError as error:
        raise EvaluationError(f"a study is a YAML file; {error}") from error
    content = _keys_of(Study, content, str(path))
    evaluation = _keys_of(Evaluation, content["evaluate"], f"{path}, evaluate")
    _check_values(content, evaluation, path)
    for key in ("recipe", "tuned_by"):
        if content.get(key) is not None:
            content[key] = path.parent / local_path(content[key])
    content["seeds"] = tuple(content["seeds"])
    if evaluation.get("data") is not None:
        evaluation["data"] = str(local_path(evaluation["data"]))
    content["evaluate"] = read_evaluation(evaluation, path)
    for key in ("learn", "known", "allow"):
        content[key] = tuple(content.get(key) or ())
    content["contrasts"] = read_contrasts(content.get("contrasts") or {}, path)
    if str(content["base"]).startswith("~"):
        content["base"] = str(local_path(content["base"]))
    if str(content["base"]).startswith("."):
        content["base"] = os.path.normpath(path.parent / content["base"])
    study = Study(**content)
    arms = [*study.arms, *(arm for others in study.beside.values() for arm in others)]
    check_contrasts(study.contrasts, arms, [*study.evaluate.tasks, *study.named_groups], bool(study.grid), path)
    return study


def best_options(folder: Path) -> dict[str, dict[str, Any]]:
    """For every arm of a finished study, the point of its grid with the highest accuracy.

    The mean over tasks and seeds decides; of equal ones, the lower nll, then the first. Raises `EvaluationError`
    where a run has no results.
    """
    study = read_study(folder / "study.yaml")
    scores: dict[str, list[tuple[float, float, int]]] = {}
    points: dict[str, list[dict[str, Any]]] = {}
    cells = study.cells()
    for arm in study.arms:
        labels = list(dict.fromkeys(cell.label for cell in cells if cell.arm == arm))
        points[arm] = [dict(next(c for c in cells if c.label == label).point) for label in labels]
        scores[arm] = [
            (*_score(folder, [c for c in cells if c.label == label]), -at) for at, label in enumerate(labels)
        ]
    return {arm: points[arm][-max(scores[arm])[2]] for arm in study.arms}


def _score(folder: Path, cells: list[Cell]) -> tuple[float, float]:
    """Mean accuracy, and minus the mean nll; where a task has no nll, it decides nothing."""
    tasks = [task for cell in cells for task in Results.read(folder / cell.folder / RESULTS).tasks.values()]
    nlls = [task["nll"] for task in tasks]
    accuracy = sum(task["accuracy"] for task in tasks) / len(tasks)
    return accuracy, 0.0 if None in nlls else -sum(nlls) / len(nlls)


def _parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """An arm's options of training, and `interpolate`."""
    return {name: value for name, value in options.items() if name != INTERPOLATE}, options.get(INTERPOLATE)


def _of_seed(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {
        name: value.replace("{seed}", str(seed)) if isinstance(value, str) else value for name, value in options.items()
    }


def _keys_of(kind: Any, content: Any, where: str) -> dict[str, Any]:
    known = [f.name for f in fields(kind)]
    if not isinstance(content, dict):
        raise EvaluationError(f"{where} has the keys {', '.join(known)}; got {content!r}")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise EvaluationError(f"{where} has the keys {', '.join(known)}; got the unknown {', '.join(unknown)}")
    needed = {"base", "seeds", "arms", "evaluate"} if kind is Study else {"tasks"}
    missing = sorted(needed - content.keys())
    if missing:
        raise EvaluationError(f"{where} lacks {', '.join(missing)}")
    return dict(content)


def _check_values(content: dict[str, Any], evaluation: dict[str, Any], path: Path) -> None:
    check_kinds(content, evaluation, path)
    seeds, arms, tasks = content["seeds"], content["arms"], evaluation["tasks"]
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int for s in seeds) or len({*seeds}) < len(seeds):
        raise EvaluationError(f"{path}: seeds is a list of different whole numbers; got {seeds!r}")
    if not isinstance(arms, dict) or not arms or any(not isinstance(options, dict) for options in arms.values()):
        raise EvaluationError(
            f"{path}: arms is a mapping from names to their options, 'sft: {{method: sft}}'; got {arms!r}"
        )
    if not isinstance(tasks, dict) or not tasks or any(type(count) is not int or count < 1 for count in tasks.values()):
        raise EvaluationError(f"{path}: evaluate.tasks is a mapping from tasks to numbers of items; got {tasks!r}")
    if bad := [name for name in arms if not re.fullmatch(r"[\w.-]+", str(name)) or str(name) in (".", "..", "base")]:
        raise EvaluationError(f"{path}: an arm's name is letters, digits, '_', '-' and '.', not 'base'; got {bad}")
    if type(content.get("keep_models", False)) is not bool:
        raise EvaluationError(f"{path}: keep_models is true or false; got {content['keep_models']!r}")
    if unknown := [name for name in content.get("tuned_as", {}) if name not in arms]:
        raise EvaluationError(
            f"{path}: tuned_as is of arms of this study ({', '.join(arms)}); got {', '.join(unknown)}"
        )
    named = [*arms, *(arm for others in content.get("beside", {}).values() for arm in others)]
    if content.get("baseline") is not None and content["baseline"] not in named and not content.get("grid"):
        raise EvaluationError(f"{path}: baseline is one of {', '.join(named)}; got {content['baseline']!r}")
    if lost := sorted({task for group in content.get("groups", {}).values() for task in group} - {*tasks}):
        raise EvaluationError(f"{path}: groups are of tasks of this study ({', '.join(tasks)}); got {', '.join(lost)}")
    for key, allowed in (("learn", [*tasks]), ("known", [*tasks]), ("allow", None)):
        names = content.get(key, [])
        if not isinstance(names, list) or (allowed is not None and not {*map(str, names)} <= {*allowed}):
            of = "tasks of this study" if allowed is not None else "words of `condenser compare --allow`"
            raise EvaluationError(f"{path}: {key} is a list of {of}; got {names!r}")
    grid = content.get("grid", {})
    if not isinstance(grid, dict) or any(not isinstance(values, list) or not values for values in grid.values()):
        raise EvaluationError(f"{path}: grid is a mapping from options to lists of values; got {grid!r}")
    alphas = [options[INTERPOLATE] for options in arms.values() if INTERPOLATE in options]
    if bad := [alpha for alpha in alphas if type(alpha) is not float or not 0 < alpha < 1]:
        raise EvaluationError(f"{path}: {INTERPOLATE} of an arm is a number between 0 and 1; got {bad}")
    for name in [*content.get("options", {}), *grid, *(key for options in arms.values() for key in options)]:
        if name in _OWN:
            raise EvaluationError(f"{path}: a study sets {name} itself; leave it out of options, arms and grid")
