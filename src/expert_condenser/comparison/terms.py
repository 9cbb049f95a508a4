"""The terms that runs are compared on: what has to be equal, what differs, and what is not known of some.

Results from before 0.2 may lack dtype and backend, and have one fingerprint for the prompts of all their tasks. Where
one run says and another does not, the two count as equal, and a note says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expert_condenser.comparison.arms import Arm, Run

KINDS = ("steps", "tokens", "data", "base", "prompts", "items", "seeds")
"""What `--allow` can name: in which of these arms may differ."""
_DATA = ("data", "split", "limit", "data_format", "answer_style")
_RECORDED = ("dtype", "backend")
"""Of an evaluation: what results from before 0.2 may lack."""
_DECIDES_NOTHING = "batch_size"
_UNKNOWN = "unknown"


class Term(NamedTuple):
    """Something that has to be equal in all runs; its kind is one of `KINDS`."""

    kind: str
    name: str
    read: Callable[[Run], Any]
    """None: not known."""
    per_seed: bool = False
    """Whether runs of different seeds may differ, but none of one seed."""


def differences(
    arms: Mapping[str, Arm], seeds: Sequence[int], tasks: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """What differs between which arms, by kind, without kinds in which all runs are equal; and what is unknown."""
    runs = [arm.runs[seed] for arm in arms.values() for seed in seeds]
    found: dict[str, list[str]] = {}
    for term in _terms(runs, tasks):
        _note(found, term, arms, seeds)
    if _are_unknown(runs, tasks) or any(_differs(term, arms, seeds) for term in _prompts(runs, tasks)):
        for key in sorted({key for run in runs for key in run.generation} - {*_RECORDED, _DECIDES_NOTHING}):
            _note(found, Term("prompts", f"{key} = ", _text(_generation(key))), arms, seeds)
    if len({tuple(arm.runs) for arm in arms.values()}) > 1:
        found["seeds"] = [seeds_of(arms)]
    return {kind: ". ".join(texts) for kind, texts in found.items()}, list(_unknown(arms, seeds, tasks))


def _terms(runs: Sequence[Run], tasks: Sequence[str]) -> list[Term]:
    return [
        Term("steps", "", lambda run: run.steps, per_seed=True),
        Term("tokens", "", lambda run: run.tokens, per_seed=True),
        *_data(runs),
        Term("base", "", _text(_option("model"))),
        *(Term("prompts", f"{key} = ", _generation(key)) for key in _RECORDED),
        *_prompts(runs, tasks),
        *(Term("items", f"{task}: ", _items(task)) for task in tasks),
    ]


def _data(runs: Sequence[Run]) -> list[Term]:
    """The rows, by the digest of their tokens where every run says it, else by the options that chose them."""
    if all(run.rows is not None for run in runs):
        return [Term("data", "rows with digest ", lambda run: run.rows, per_seed=True)]
    return [Term("data", f"{name} = ", _text(_option(name))) for name in _DATA]


def _prompts(runs: Sequence[Run], tasks: Sequence[str]) -> list[Term]:
    """Task by task, and where not every run says, of all tasks together among the runs that have the same ones."""
    by_task = [Term("prompts", f"{task}: ", _task_prompts(task)) for task in tasks]
    if _say_per_task(runs, tasks):
        return by_task
    together = [Term("prompts", "", _prompts_of(names)) for names in _lists(runs)]
    return [*together, *by_task] if _are_unknown(runs, tasks) else together


def _unknown(arms: Mapping[str, Arm], seeds: Sequence[int], tasks: Sequence[str]) -> Iterator[str]:
    """A note on each thing that only some runs say."""
    runs = [arm.runs[seed] for arm in arms.values() for seed in seeds]
    for key in _RECORDED:
        silent = _silent(arms, seeds, _generation(key))
        if silent and any(key in run.generation for run in runs):
            yield f"{key} is unknown, and taken as equal, in results from before 0.2: {silent}"
    if _are_unknown(runs, tasks):
        yield (
            "prompts are known of all tasks together only, and runs have different tasks, so they are unknown, and "
            f"taken as equal, in results from before 0.2: {_silent(arms, seeds, _task_prompts(tasks[0]))}"
        )


def data_orders(arms: Mapping[str, Arm], seeds: Sequence[int]) -> Iterator[str]:
    """A note on the seeds at which arms saw their rows in different orders, so that less pairs them."""
    apart = [seed for seed in seeds if len({_data_seed(arm.runs[seed]) for arm in arms.values()}) > 1]
    if apart:
        found = (f"{_show({s: _data_seed(arm.runs[s]) for s in apart})} in {label}" for label, arm in arms.items())
        names = ", ".join(map(str, apart))
        yield (
            f"paired by seed, but the runs of seed {names} saw their rows in different orders: data_seed = "
            f"{'; '.join(found)}"
        )


def _say_per_task(runs: Sequence[Run], tasks: Sequence[str]) -> bool:
    return all(run.tasks[task].prompts is not None for run in runs for task in tasks)


def _are_unknown(runs: Sequence[Run], tasks: Sequence[str]) -> bool:
    """Whether there are prompts that cannot be compared."""
    return not _say_per_task(runs, tasks) and len(_lists(runs)) > 1


def _lists(runs: Sequence[Run]) -> list[frozenset[str]]:
    """The different sets of tasks that runs were evaluated on."""
    return list(dict.fromkeys(frozenset(run.tasks) for run in runs))


def _silent(arms: Mapping[str, Arm], seeds: Sequence[int], read: Callable[[Run], Any]) -> str:
    """The arms with a run that does not say."""
    return ", ".join(label for label, arm in arms.items() if any(read(arm.runs[seed]) is None for seed in seeds))


def _note(found: dict[str, list[str]], term: Term, arms: Mapping[str, Arm], seeds: Sequence[int]) -> None:
    if _differs(term, arms, seeds):
        texts = (f"{_show({seed: term.read(arm.runs[seed]) for seed in seeds})} in {k}" for k, arm in arms.items())
        found.setdefault(term.kind, []).append(term.name + "; ".join(texts))


def _differs(term: Term, arms: Mapping[str, Arm], seeds: Sequence[int]) -> bool:
    """Whether arms differ: at any seed (the order of the data is the seed's), or any two runs at all."""
    rows = [[term.read(arm.runs[seed]) for seed in seeds] for arm in arms.values()]
    if term.per_seed:
        return any(row != rows[0] for row in rows)
    return len({repr(value) for row in rows for value in row if value is not None}) > 1


def _show(values: Mapping[int, Any]) -> str:
    texts = {seed: _UNKNOWN if value is None else str(value) for seed, value in values.items()}
    distinct = list(dict.fromkeys(texts.values()))
    if len(distinct) == 1:
        return distinct[0]
    return ", ".join(f"{text} (seed {seed})" for seed, text in texts.items())


def seeds_of(arms: Mapping[str, Arm]) -> str:
    """The seeds of every arm, as text."""
    return "; ".join(f"{', '.join(map(str, arm.runs))} in {label}" for label, arm in arms.items())


def _option(name: str) -> Callable[[Run], Any]:
    return lambda run: run.config.get(name)


def _data_seed(run: Run) -> Any:
    """What decides the order of a run's rows: `data_seed`, or where it is not set, the seed."""
    found = run.config.get("data_seed")
    return run.seed if found is None else found


def _generation(key: str) -> Callable[[Run], Any]:
    return lambda run: run.generation.get(key)


def _text(read: Callable[[Run], Any]) -> Callable[[Run], str]:
    """Of a value that is known, also where it is None."""
    return lambda run: str(read(run))


def _task_prompts(task: str) -> Callable[[Run], Any]:
    return lambda run: run.tasks[task].prompts


def _prompts_of(tasks: frozenset[str]) -> Callable[[Run], Any]:
    return lambda run: run.prompts if frozenset(run.tasks) == tasks else None


def _items(task: str) -> Callable[[Run], Any]:
    return lambda run: f"{run.tasks[task].correct.size} items ({run.tasks[task].items[:12]})"
