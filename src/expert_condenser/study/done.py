"""Which cells of a study are done: told from the raw files alone, without a recipe or a model."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.names import canonical
from expert_condenser.study.evaluation import GENERATE, Evaluation
from expert_condenser.study.plan import Cell
from expert_condenser.training.record import RUN, RunRecord
from expert_condenser.yaml_file import read_yaml


def is_done(root: Path, cell: Cell) -> bool:
    """Whether the run has its results. Raises `EvaluationError` where they are of another recipe or evaluation.

    What `run.json` holds is compared with what the study sets, as far as two values can be compared as they are
    written; `cells.is_done_as_asked` parses the recipe and compares all of it.
    """
    folder = root / cell.folder
    if not (folder / RESULTS).exists():
        return False
    check_evaluation(folder, cell.study.evaluate)
    if cell.seed is not None:
        _check_options(folder, cell)
    return True


def check_evaluation(folder: Path, wanted: Evaluation, questions: Mapping[str, str] | None = None) -> None:
    """Raise `EvaluationError` where `results.json` is of another evaluation than the study's.

    `questions` are the fingerprints of the tasks' questions; without them, names and numbers of items are compared.
    """
    results = Results.read(folder / RESULTS)
    there = {"tasks": list(results.tasks), "max_new_tokens": results.generation["max_new_tokens"]}
    asked: dict[str, Any] = {"tasks": list(wanted.tasks), "max_new_tokens": wanted.max_new_tokens}
    modes = {name: wanted.modes[name] for name in wanted.tasks if wanted.modes.get(name, GENERATE) != GENERATE}
    there["modes"], asked["modes"] = _modes(results), modes
    there["measures"] = {name: value.get("settings") for name, value in results.measures.items()}
    asked["measures"] = wanted.measures
    if questions is not None:
        there["questions"] = {name: task.get("questions") for name, task in results.tasks.items()}
        asked["questions"] = dict(questions)
    elif there == asked:
        more = {name: task["n"] for name, task in results.tasks.items() if task["n"] > wanted.tasks[name]}
        there, asked = {**there, "items": more}, {**asked, "items": {name: wanted.tasks[name] for name in more}}
    differing = [f"{key}: {there[key]} there, {asked[key]} in the study" for key in asked if there[key] != asked[key]]
    if differing:
        raise EvaluationError(
            f"{folder} holds the results of another evaluation ({'; '.join(differing)}); name another --output_dir"
        )


def _modes(results: Results) -> dict[str, str]:
    """The tasks that were not asked by generation, which results do not name."""
    one = results.generation.get("mode", GENERATE)
    modes = results.generation.get("modes", dict.fromkeys(results.tasks, one))
    return {name: mode for name, mode in modes.items() if mode != GENERATE}


def _check_options(folder: Path, cell: Cell) -> None:
    found = RunRecord.read(folder / RUN)
    there = found.config
    asked = {name: value for name, value in _asked(cell).items() if value is not None and name in there}
    differing = {name: (there[name], value) for name, value in asked.items() if not _says(there[name], value)}
    if found.interpolated != cell.interpolated:
        differing["interpolate"] = (found.interpolated, cell.interpolated)
    if not _same_model(str(there.get("model")), cell.study.base):
        differing["model"] = (there.get("model"), cell.study.base)
    if differing:
        rows = "; ".join(f"{name}: {old!r} there, {new!r} asked for" for name, (old, new) in sorted(differing.items()))
        raise EvaluationError(f"{folder} holds the results of another recipe: {rows}; name another --output_dir")


def _asked(cell: Cell) -> dict[str, Any]:
    """The options that the study sets for a run, by their names of today."""
    try:
        recipe = {} if cell.study.recipe is None else read_yaml(cell.study.recipe)
    except DataError as error:
        raise EvaluationError(f"`recipe` names a YAML file; {error}") from error
    if not isinstance(recipe, dict):
        raise EvaluationError(f"`recipe` names a mapping of options; {cell.study.recipe} is a {type(recipe).__name__}")
    return {canonical(str(name)): value for name, value in {**recipe, **cell.study.options, **cell.options}.items()} | {
        "seed": cell.seed
    }


def _says(recorded: Any, written: Any) -> bool:
    """Whether a value of a YAML file became this recorded one: 1e-4 and "0.0001" do, false and "False".

    A list of one kind and a text of the other cannot be compared as they are, and count as the same.
    """
    if isinstance(recorded, list | dict) or isinstance(written, list | dict):
        return type(recorded) is not type(written) or bool(recorded == written)
    try:
        return float(recorded) == float(written)
    except (TypeError, ValueError):
        return str(recorded).lower() == str(written).lower()


def _same_model(recorded: str, base: str) -> bool:
    """Whether two names of a model are one: a relative path ends as an absolute one does, wherever it was seen from."""
    left, right = ([part for part in PurePath(name).parts if part != ".."] for name in (recorded, base))
    shared = min(len(left), len(right))
    return shared > 0 and left[-shared:] == right[-shared:]
