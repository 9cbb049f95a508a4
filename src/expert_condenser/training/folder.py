"""The folder of one run: where everything lies, and the only writer of `run.json`.

output_dir/
    run.json, metrics.jsonl   what was asked for and how far it came; the log of every logged step
    method_state.json         the method's state before the first step: what it learnt from the data, say
    condensers.json, ...      what the method has to say for a person (`Method.artifacts`)
    <phase>/checkpoint-N/     while a phase trains
    <phase>/final/            its weights and router state, from which the next phase starts; usage.safetensors
    model/                    the result; of a LoRA run the merged one, beside adapter/
"""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger

from expert_condenser.checkpoint.guard import clear, is_whole, newest_whole
from expert_condenser.errors import TrainingError
from expert_condenser.files import read_json, write_json
from expert_condenser.functional.allocation import Allocation
from expert_condenser.training.callback import METHOD_STATE
from expert_condenser.training.recipe import Recipe, option_kinds
from expert_condenser.training.record import RUN, RunRecord
from expert_condenser.training.sft_options import default_of

_MAY_CHANGE = frozenset(
    {"output_dir", "resume", "overwrite", "report_to", "logging_dir", "save_total_limit", "disable_tqdm", "run_name"}
)
"""Options that do not change what a run computes: a resume may set them anew."""
logger = get_logger(__name__)


class RunFolder:
    """One run on disk. Raises `TrainingError` rather than mix two runs, before anything is written."""

    record: RunRecord

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.trainer.output_dir)
        self.main = recipe.trainer.process_index == 0
        """Whether this process is the one that writes."""
        if recipe.run.resume:
            if not (self.path / RUN).exists():
                raise TrainingError(f"--resume goes on with a run, and {self.path} holds none ({RUN} is missing)")
            check_same_run(RunRecord.read(self.path / RUN), recipe)
        elif self.main and self.path.exists() and any(self.path.iterdir()):
            self._check_overwrite()

    def _check_overwrite(self) -> None:
        if not self.recipe.run.overwrite:
            raise TrainingError(
                f"a run starts in an empty output_dir, and {self.path} is not; --resume goes on with what it "
                "holds, --overwrite deletes it"
            )
        if not (self.path / RUN).exists():
            raise TrainingError(f"--overwrite deletes a run, and {self.path} holds something else ({RUN} is missing)")

    def open(self, state: dict[str, Any] | None = None) -> None:
        """Begin the run on disk with the method's state, or read how far it came."""
        with self.recipe.trainer.main_process_first(local=False, desc="output_dir"):
            if self.main and not self.recipe.run.resume:
                clear(self.path)
                self.path.mkdir(parents=True, exist_ok=True)
                write_json(self.path / METHOD_STATE, state, indent=None)
                RunRecord.begin(self.recipe.run.method, self.recipe.flat()).write(self.path / RUN)
            self.record = RunRecord.read(self.path / RUN)

    def note(self, record: RunRecord) -> None:
        """Write a newer `run.json`."""
        self.record = record
        if self.main:
            record.write(self.path / RUN)

    def write_artifacts(self, artifacts: Mapping[str, Any]) -> None:
        """Write what the method has to say, a JSON file each."""
        for name, content in artifacts.items() if self.main else ():
            write_json(self.path / name, content)

    def phase(self, phase: str) -> Path:
        """Where a phase trains."""
        return self.path / phase

    def final(self, phase: str) -> Path:
        """What a phase leaves."""
        return self.path / phase / "final"

    def is_done(self, phase: str) -> bool:
        """Whether a phase has left all of it."""
        return is_whole(self.final(phase))

    def before(self, phase: str) -> Path | None:
        """What the phase before this one left; None of the first."""
        position = self.recipe.phases.index(phase)
        return self.final(self.recipe.phases[position - 1]) if position else None

    def newest_checkpoint(self, phase: str) -> Path | None:
        """Where a resumed phase goes on; newer checkpoints that a crash left unfinished are deleted."""
        checkpoint, broken = newest_whole(self.phase(phase))
        for path in broken if self.main else []:
            logger.warning(f"{path} is not whole: a crash cut it short, it is deleted")
            clear(path)
        return checkpoint

    def state_before(self, phase: str, checkpoint: Path | None) -> dict[str, Any] | None:
        """The method's state to go on with: the checkpoint's, the phase before's, or that of the beginning."""
        path = (checkpoint or self.before(phase) or self.path) / METHOD_STATE
        return read_json(path) if path.exists() else None  # runs of version 1 have none of the beginning


def annotate(folder: Path, *, arm: str, cost: dict[str, Any]) -> None:
    """Note in a finished run's `run.json` which arm of a study it is, and what it cost."""
    replace(RunRecord.read(folder / RUN), arm=arm, cost=cost).write(folder / RUN)


def check_same_run(record: RunRecord, recipe: Recipe) -> None:
    """Raise `TrainingError` if the record is of another run: the method, the model, the data or a number differs."""
    wanted = json.loads(json.dumps(recipe.flat()))
    # An option that the run's version did not have yet had its default.
    defaults = {f.name: default_of(f) for kind in option_kinds(recipe.run.method).values() for f in fields(kind)}
    there = {name: record.config.get(name, _as_json(defaults[name])) for name in wanted}
    if record.method != recipe.run.method:
        there["method"] = record.method
    differing = {
        name: (there[name], value) for name, value in wanted.items() if name not in _MAY_CHANGE and there[name] != value
    }
    if differing:
        rows = "; ".join(f"{name}: {old!r} there, {new!r} asked for" for name, (old, new) in sorted(differing.items()))
        raise TrainingError(f"one output_dir is for one run, and it holds another one ({rows})")


def _as_json(value: Any) -> Any:
    return str(value) if isinstance(value, Allocation) else value
