"""A cell as a run: its recipe, parsed as the command line parses it, and whether its folder holds that run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expert_condenser.errors import EvaluationError, ExpertCondenserError, TrainingError
from expert_condenser.evaluation.results import RESULTS
from expert_condenser.study.done import check_evaluation
from expert_condenser.study.plan import Cell
from expert_condenser.training.folder import check_same_run
from expert_condenser.training.parse import parse_recipe
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.record import RUN, RunRecord


def recipe_of(cell: Cell, root: Path) -> Recipe:
    """The run's recipe; raises `EvaluationError` with the arm's name where an option is wrong."""
    study = cell.study
    own = {"model": study.base, "seed": cell.seed, "output_dir": str(root / cell.folder)}
    words = [] if study.recipe is None else ["--config", str(study.recipe)]
    for name, value in {**study.options, **cell.options, **own}.items():
        words += _words(name, value)
    try:
        return parse_recipe(words)
    except ExpertCondenserError as error:
        raise EvaluationError(f"arm {cell.label!r}: {error}") from error


def is_done_as_asked(root: Path, cell: Cell, questions: Mapping[str, str]) -> bool:
    """As `done.is_done`, with every option of the recipe and the fingerprints of the questions compared."""
    folder = root / cell.folder
    if not (folder / RESULTS).exists():
        return False
    check_evaluation(folder, cell.study.evaluate, questions)
    if cell.seed is None:
        return True
    record = RunRecord.read(folder / RUN)
    if record.interpolated != cell.interpolated:
        raise EvaluationError(
            f"{folder} holds the results at {record.interpolated or 1:g} of the way from the base, and the study asks "
            f"for {cell.interpolated or 1:g}; name another --output_dir"
        )
    try:
        check_same_run(record, recipe_of(cell, root))
    except TrainingError as error:
        raise EvaluationError(f"{folder} holds the results of another recipe: {error}") from error
    return True


def _words(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
