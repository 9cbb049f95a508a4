"""The folder of one run: where everything lies, and the only writer of `run.json`.

output_dir/
    .condenser-lock           the process that works here, while it does
    .condenser-folder         that this is a run, and what it replaces until its first step (`workfolder`)
    run.json, metrics.jsonl   what was asked for and how far it came; the log of every logged step
    method_state.json         the method's state before the first step: what it learnt from the data, say
    condensers.json, ...      what the method has to say for a person (`Method.artifacts`)
    <phase>/checkpoint-N/     while a phase trains
    <phase>/final/            its weights and router state, from which the next phase starts; usage.safetensors
    model/                    the result; of a LoRA run the merged one, beside adapter/
"""

import datetime
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate.logging import get_logger

from expert_condenser.checkpoint.guard import check_whole, is_closed, newest_whole, set_aside, unfinished_in
from expert_condenser.clearing import Kind
from expert_condenser.data.report import DataReport
from expert_condenser.errors import CheckpointError, DataError, TrainingError
from expert_condenser.files import read_json, write_json, write_manifest
from expert_condenser.functional.allocation import Allocation
from expert_condenser.training.callback import METHOD_STATE
from expert_condenser.training.engines.support import engine_of
from expert_condenser.training.log import mend
from expert_condenser.training.main_process import on_main_process
from expert_condenser.training.recipe import Recipe, option_kinds
from expert_condenser.training.record import METRICS, PER_STEP, RUN, RunRecord
from expert_condenser.training.sft_options import default_of
from expert_condenser.workfolder import WorkFolder

_MAY_CHANGE = frozenset(
    {"output_dir", "resume", "overwrite", "report_to", "logging_dir", "save_total_limit", "disable_tqdm", "run_name"}
    | {"ddp_backend", "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "use_cpu"}
)
"""Options that do not change what a run computes: a resume may set them anew."""
logger = get_logger(__name__)


class RunFolder:
    """`with RunFolder(recipe) as folder:` is one run on disk, of this process and its fellows alone.

    Raises `TrainingError` rather than mix two runs, on every process, before a model is loaded or anything written.
    """

    record: RunRecord

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.trainer.output_dir)
        self.main = recipe.trainer.process_index == 0
        """Whether this process is the one that writes."""
        self._place = WorkFolder(self.path, RUN_KIND, recipe.inputs())
        on_main_process(recipe.trainer, self._look)

    def __enter__(self) -> "RunFolder":
        on_main_process(self.recipe.trainer, self._take)
        if self.recipe.run.resume:
            self.record = RunRecord.read(self.path / RUN)
            self.recipe = as_it_began(self.record, self.recipe)
        return self

    @property
    def date(self) -> datetime.date | None:
        """The day that the rows of a run that goes on show, where they show one."""
        found = (self.record.data or {}).get("date") if self.recipe.run.resume else None
        return None if found is None else datetime.date.fromisoformat(found)

    def check_rows(self, report: DataReport) -> None:
        """Raise `TrainingError` where a run would go on with other rows than it began with."""
        began = self.record.data if self.recipe.run.resume else None
        found = report.facts()
        if began is None or began["digest"] == found["digest"]:
            return
        names = {"rows": "rows", "examples": "examples", "template": "the chat template", "files": "files"}
        differing = [f"{name}: {began.get(key)} there, {found[key]} now" for key, name in names.items()]
        rows = "; ".join(text for text, key in zip(differing, names, strict=True) if began.get(key) != found[key])
        raise TrainingError(
            f"a run goes on with the rows that it began with, and these are others ({rows or 'their tokens differ'}); "
            "bring the data back as it was, or start a new run"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.main:
            self._place.__exit__(kind, error, trace)

    def _look(self) -> None:
        self._place.undo_killed()
        self._check()

    def _take(self) -> None:
        self._place.__enter__()
        try:
            self._check()  # again: another process may have been faster
        except BaseException as error:
            self._place.__exit__(type(error), error, error.__traceback__)
            raise

    def _check(self) -> None:
        run, held = self.recipe.run, self._place.content
        if run.resume:
            if not (held / RUN).exists():
                raise TrainingError(f"--resume goes on with a run, and {self.path} holds none ({RUN} is missing)")
            record = RunRecord.read(held / RUN)
            check_same_run(record, as_it_began(record, self.recipe))
        elif run.overwrite:
            self._place.check_clearable()
        elif self._place.holds_something():
            raise TrainingError(
                f"a run starts in an empty output_dir, and {self.path} is not; --resume goes on with what it "
                "holds, --overwrite deletes it"
            )

    def open(self, report: DataReport, state: dict[str, Any] | None = None) -> None:
        """Begin the run on disk with the facts about its rows and the method's state, or read how far it came."""
        on_main_process(self.recipe.trainer, lambda: self._open(report, state))
        self.record = RunRecord.read(self.path / RUN)

    def _open(self, report: DataReport, state: dict[str, Any] | None) -> None:
        if self.recipe.run.resume:
            self._place.mark()
            mend(self.path / METRICS)
            return
        self._place.begin()
        write_json(self.path / METHOD_STATE, state, indent=None)
        try:
            record = RunRecord.begin(self.recipe.run.method, self.recipe.flat(), report.facts())
            trainer = self.recipe.trainer
            replace(record, engine=engine_of(trainer), processes=trainer.world_size).write(self.path / RUN)
        except BaseException:
            (self.path / METHOD_STATE).unlink()  # without a record it is nothing, and would be in the way of a start
            raise

    def settle(self) -> None:
        """The run has taken its first step: what it replaced is deleted."""
        if self.main:
            self._place.settle()

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
        """Whether a phase has left all of it; raises `CheckpointError` where that is not what it was.

        A finished run has left all of every phase: there is nothing that a resume could train again.
        """
        final = self.final(phase)
        if not self.record.finished:
            if is_closed(final):
                check_whole(final)
            return is_closed(final)
        remedy = f"The run is finished, its result is {self.path / 'model'}: restore {final}, or --overwrite the run."
        if not is_closed(final):
            raise CheckpointError(f"{RUN} says that {phase} is finished, and {final} is not there as it was. {remedy}")
        check_whole(final, remedy)
        return True

    def before(self, phase: str) -> Path | None:
        """What the phase before this one left; None of the first."""
        position = self.recipe.phases.index(phase)
        return self.final(self.recipe.phases[position - 1]) if position else None

    def newest_checkpoint(self, phase: str) -> Path | None:
        """Where a resumed phase goes on; what a crash left unfinished is renamed, and deleted when the phase is done.

        Raises `CheckpointError` where that checkpoint is damaged.
        """
        checkpoint, unfinished = newest_whole(self.phase(phase))
        if self.final(phase).exists():
            unfinished.append(self.final(phase))
        for path in unfinished if self.main else []:
            logger.warning(f"{path} was never finished: a crash cut it short; it is {set_aside(path).name} now")
        return checkpoint

    def close(self, phase: str) -> None:
        """The phase has left all of it: what crashes left of it goes, and `final` gets its manifest."""
        for path in unfinished_in(self.phase(phase)):
            shutil.rmtree(path)
        write_manifest(self.final(phase))

    def state_file(self, phase: str, checkpoint: Path | None) -> Path:
        """Where the method's state is that a phase goes on with."""
        return (checkpoint or self.before(phase) or self.path) / METHOD_STATE

    def state_before(self, phase: str, checkpoint: Path | None) -> Any:
        """The method's state to go on with: the checkpoint's, the phase before's, or that of the beginning."""
        path = self.state_file(phase, checkpoint)
        return read_json(path) if path.exists() else None  # runs of version 1 have none of the beginning


def _is_run(folder: Path) -> bool:
    """Whether a folder is one of a release that set no marker: its `run.json` is a record, not just called so."""
    try:
        config = RunRecord.read(folder / RUN).config
    except DataError:
        return False
    return {"output_dir", "model", "data", "learning_rate"} <= config.keys()  # all of which every record has


RUN_KIND = Kind("train", is_older=_is_run)


def annotate(folder: Path, **notes: Any) -> None:
    """Note in a finished run's `run.json` what only the study knows: `arm`, `cost`, `interpolated`."""
    replace(RunRecord.read(folder / RUN), **notes).write(folder / RUN)


def as_it_began(record: RunRecord, recipe: Recipe) -> Recipe:
    """The recipe of a run that an earlier release began: it learnt the last answer of a conversation alone."""
    if "loss_on" in record.config or recipe.data.loss_on != "all":
        return recipe
    return replace(recipe, data=replace(recipe.data, loss_on="last"))


def check_same_run(record: RunRecord, recipe: Recipe) -> None:
    """Raise `TrainingError` if the record is of another run: the method, the model, the data or a number differs."""
    wanted = json.loads(json.dumps(recipe.flat()))
    # An option that the run's version did not have yet had its default.
    defaults = {f.name: default_of(f) for kind in option_kinds(recipe.run.method).values() for f in fields(kind)}
    there = {name: record.config.get(name, _as_json(defaults[name])) for name in wanted}
    there["loss_on"] = record.config.get("loss_on", "last")  # what it was before there was the option
    if record.method != recipe.run.method:
        there["method"] = record.method
    free = _MAY_CHANGE | _free_by_step(record, recipe)
    differing = {
        name: (there[name], value) for name, value in wanted.items() if name not in free and there[name] != value
    }
    if differing:
        rows = "; ".join(f"{name}: {old!r} there, {new!r} asked for" for name, (old, new) in sorted(differing.items()))
        raise TrainingError(f"one output_dir is for one run, and it holds another one ({rows})")


def _free_by_step(record: RunRecord, recipe: Recipe) -> set[str]:
    """The options that make the rows of a step: they may change with the number of processes, if the rows do not."""
    before = record.rows_per_step()
    if before is None:
        return set()
    trainer = recipe.trainer
    rows = [trainer.world_size, *(getattr(trainer, name) for name in PER_STEP)]
    if math.prod(rows) != before:
        there = [record.processes, *(record.config[name] for name in PER_STEP)]
        raise TrainingError(
            f"a run goes on with as many rows per step as it began with, {before} = {there[0]} processes x {there[1]} "
            f"x {there[2]} accumulated; asked for {math.prod(rows)} = {rows[0]} x {rows[1]} x {rows[2]}. Set "
            f"{' and '.join(PER_STEP)} for {rows[0]} processes"
        )
    return set(PER_STEP)


def _as_json(value: Any) -> Any:
    return str(value) if isinstance(value, Allocation) else value
