"""A recipe as JSON, and whether two are of the same run."""

import json
from dataclasses import MISSING, fields
from importlib.metadata import version
from typing import Any

from expert_condenser.errors import TrainingError
from expert_condenser.training.recipe import TrainingConfig
from expert_condenser.training.record import PACKAGES, package_commit

_MAY_CHANGE = frozenset(
    {"output_dir", "resume", "overwrite", "report_to", "logging_dir", "save_total_limit", "disable_tqdm", "run_name"}
)
"""Options that do not change what a run computes: a resume may set them anew."""


def settings(config: TrainingConfig) -> dict[str, Any]:
    """The recipe as JSON, without what differs between processes of the same run."""
    values = config.to_dict()
    names = {f.name for f in fields(config)} - {"local_rank", "hub_token", "accelerator_config", "parallelism_config"}
    return {name: values[name] for name in sorted(names & set(values))}


def describe(config: TrainingConfig) -> dict[str, Any]:
    """The head of `run.json`: recipe, versions, git commit."""
    return {
        "method": config.method,
        "config": settings(config),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": package_commit(),
        "phases": {},
    }


def check_same_run(found: dict[str, Any], config: TrainingConfig) -> None:
    """Raise `TrainingError` if `output_dir` holds another run: the method, the model, the data or a number differs."""
    wanted = json.loads(json.dumps(settings(config)))
    # An option that the run's version did not have yet had its default.
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(config)}
    there = {name: found["config"].get(name, defaults[name]) for name in wanted}
    differing = {
        name: (there[name], value) for name, value in wanted.items() if name not in _MAY_CHANGE and there[name] != value
    }
    if differing:
        rows = "; ".join(f"{name}: {old!r} there, {new!r} asked for" for name, (old, new) in sorted(differing.items()))
        raise TrainingError(f"one output_dir is for one run, and it holds another one ({rows})")
