"""What a run leaves behind: `run.json`, `metrics.jsonl`, and checkpoints that are closed when whole."""

import json
import subprocess
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import TrainerCallback

from expert_condenser.errors import TrainingError
from expert_condenser.files import append_line, write_manifest
from expert_condenser.training.recipe import TrainingConfig

RUN, METRICS = "run.json", "metrics.jsonl"
_PACKAGES = ("expert-condenser", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
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
        "versions": {name: version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
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


class RunRecorder(TrainerCallback):
    """Writes the log of every logged step to `metrics.jsonl`, and closes every checkpoint."""

    def __init__(self, run_dir: Path, phase: str) -> None:
        self.path = run_dir / METRICS
        self.phase = phase

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On a resume, drop what was logged after the checkpoint."""
        if state.is_world_process_zero and self.path.exists():
            entries = [json.loads(line) for line in self.path.read_text().splitlines()]
            kept = [e for e in entries if e["phase"] != self.phase or e["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append one line."""
        if state.is_world_process_zero:
            append_line(self.path, {"phase": self.phase, **state.log_history[-1]})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the checkpoint once every process has written its part."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _git_commit() -> str | None:
    """The commit of the directory that the command runs in, where git knows one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
