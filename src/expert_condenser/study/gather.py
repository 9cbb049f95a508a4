"""The raw files of a study, read: the runs that are compared, and what the base model scores."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from expert_condenser.comparison.arms import Run, TaskResult, read_task
from expert_condenser.comparison.runs import Design, read_design
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.study.done import is_done
from expert_condenser.study.plan import Cell, Study, read_study


@dataclass(frozen=True)
class Gathered:
    """The runs of a study that are compared: those of the seeds that every arm has finished."""

    study: Study
    root: Path
    design: Design
    planned: int
    """Runs that the study has."""
    finished: int
    """Runs with results; those of seeds that are not whole are not compared."""
    base: dict[str, TaskResult]
    base_measures: dict[str, Any]

    @property
    def labels(self) -> dict[str, list[str]]:
        """Arm -> its labels, one for every point of the grid."""
        found: dict[str, list[str]] = {}
        for label in self.design.arms:
            found.setdefault(label.partition(" ")[0], []).append(label)
        return found

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""
        named = (self.study.baseline or "sft").partition(" ")[0]
        return named if named in self.labels else next(iter(self.labels))

    def runs(self, label: str) -> list[Run]:
        """The runs of a label, in the order of the seeds."""
        return [self.design.arms[label].runs[seed] for seed in self.design.seeds]

    def tasks_of(self, score: str) -> list[str]:
        """The tasks of a group, or the task itself."""
        return self.study.named_groups.get(score, [score])

    def base_score(self, score: str) -> float:
        """What the base model scores before any training, in points: on a task, or a mean over a group."""
        return 100 * mean(self.base[task].accuracy for task in self.tasks_of(score))

    def base_nll(self, score: str) -> float | None:
        """The nll of the base model, as `base_score`; None where a task has none."""
        found = [self.base[task].nll for task in self.tasks_of(score)]
        return None if None in found else mean(nll for nll in found if nll is not None)


def gather(root: Path) -> Gathered:
    """Read a study's runs, and those of other studies that stand beside them."""
    study = read_study(root / "study.yaml")
    planned = study.cells()
    cells = [cell for cell in planned if is_done(root, cell)]
    seeds = [seed for seed in study.seeds if _labels(planned, seed) == _labels(cells, seed)]
    if not seeds:
        raise EvaluationError(f"tables need every arm of a seed, and {root} has no seed whose runs are all done")
    folders = [root / cell.folder for cell in cells if cell.seed in seeds]
    for other, arms in study.beside.items():
        for arm in arms:
            found = [run for run in sorted((root / other / "runs" / arm).rglob("seed*")) if (run / RESULTS).exists()]
            if not found:
                raise EvaluationError(
                    f"`beside` names arms of other studies, and {root / other} has no runs of {arm!r}"
                )
            folders += found
    design = read_design(folders, allow=(*study.allow, *(["seeds"] if study.beside else [])))
    path = root / study.base_cell.folder / RESULTS
    results = Results.read(path)
    base = {name: read_task(name, content, path) for name, content in results.tasks.items()}
    return Gathered(study, root, design, len(planned), len(cells), base, results.measures)


def _labels(cells: list[Cell], seed: int) -> set[str]:
    return {cell.label for cell in cells if cell.seed == seed}
