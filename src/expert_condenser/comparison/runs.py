"""The design of a comparison: which runs it is of, and the refusal to compare what was not made on equal terms."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expert_condenser.comparison.arms import Arm, group, read_run
from expert_condenser.comparison.terms import KINDS, data_orders, differences, seeds_of
from expert_condenser.errors import EvaluationError

__all__ = ["KINDS", "Arm", "Design", "read_design"]


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
        raise EvaluationError(f"runs are paired by seed, and no seed is in all arms: {seeds_of(arms)}")
    names, notes = _tasks(arms, tasks)
    differing, unknown = differences(arms, shared, names)
    if refused := [kind for kind in differing if kind not in allow]:
        lines = "".join(f"\n  {kind}: {differing[kind]}" for kind in refused)
        raise EvaluationError(
            f"methods are compared on equal terms, and these runs differ:{lines}\nTrain and evaluate them alike, or "
            f"pass --allow {','.join(refused)}."
        )
    notes += [*unknown, *data_orders(arms, shared)]
    notes += [f"allowed to differ: {kind}: {text}" for kind, text in differing.items()]
    kept = {label: Arm(label, {seed: arm.runs[seed] for seed in shared}) for label, arm in arms.items()}
    return Design(kept, shared, names, "items" not in differing, notes)


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
