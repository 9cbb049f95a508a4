"""One phase of a run: a TRL training from its start or from a checkpoint, which leaves `final/`."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from accelerate.logging import get_logger
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from trl import SFTTrainer

from expert_condenser.checkpoint.config import read_config
from expert_condenser.checkpoint.load import resolve_model
from expert_condenser.files import full_disk_named, read_json, write_json
from expert_condenser.methods import Method
from expert_condenser.training.auxiliary import lend_fields, restore_fields
from expert_condenser.training.callback import METHOD_STATE, MethodCallback
from expert_condenser.training.engines.deepspeed import begin_phase
from expert_condenser.training.engines.fsdp import name_layers
from expert_condenser.training.engines.support import engine_of
from expert_condenser.training.fixed_rows import ROWS, record_routing
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.model import Prepared, trainable_counts
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.recorder import RunRecorder
from expert_condenser.training.rows import TrainingRows
from expert_condenser.training.schedule import WHOLE, Stretch
from expert_condenser.training.sft_options import TrainerConfig
from expert_condenser.training.space import missing_for
from expert_condenser.training.stopping import StopOnSignal
from expert_condenser.training.trainer import StrictSFTTrainer

logger = get_logger(__name__)


def train_phase(
    folder: RunFolder, rows: TrainingRows, prepared: Prepared, callbacks: Sequence[TrainerCallback] = ()
) -> None:
    """Train a prepared model to the end of its phase."""
    method, model, checkpoint = prepared.method, prepared.model, prepared.checkpoint
    if checkpoint is None:
        _begin(folder, method, model)
    callback = MethodCallback(method, loaded_from=checkpoint, saves_slices=True)
    recorder = RunRecorder(folder, method.phase, checkpoint)
    stop = StopOnSignal(folder.recipe.device)
    trainer = make_trainer(folder, rows, method, model, [callback, *callbacks, recorder, stop])
    phases = folder.recipe.phases
    logger.info(f"{method.name}: {method.phase} ({phases.index(method.phase) + 1} of {len(phases)})")
    with stop, full_disk_named(folder.path, lambda: missing_for(folder.phase(method.phase), trainer)):
        if checkpoint is None:
            _record_routing(folder, trainer, rows, method, "start")
            trainer.train()
        elif is_last(checkpoint):  # a crash came after the last step; the Trainer would take one more
            state = state_of(checkpoint, main=folder.main)
            callback.restore(trainer.args, state, model)
            recorder.on_train_begin(trainer.args, state, None)
        else:
            logger.info(f"going on from {checkpoint}; its experts are loaded whole, whatever the Trainer says of keys")
            trainer.train(resume_from_checkpoint=str(checkpoint))
        _record_routing(folder, trainer, rows, method, "end")
        _close(folder, trainer, method, callback, recorder)


def _record_routing(
    folder: RunFolder, trainer: SFTTrainer, rows: TrainingRows, method: Method, moment: Literal["start", "end"]
) -> None:
    """The main process notes who takes the tokens of the first rows."""
    if folder.main:
        source = rows.train if rows.evaluation is None else rows.evaluation
        first = source.select(range(min(ROWS, len(source))))["input_ids"]
        record_routing(trainer.model, list(first), folder.phase(method.phase), moment)


def _begin(folder: RunFolder, method: Method, model: Any) -> None:
    """Note what trains, and what the method has to say: who became a condenser and why, whom ESFT trains."""
    counts = trainable_counts(model)
    folder.note(replace(folder.record, trainable=counts))
    folder.write_artifacts(method.artifacts(model))
    shares = (f"{group} {count['trainable']:,} of {count['total']:,}" for group, count in counts.items())
    logger.info(f"parameters that train: {'; '.join(shares)}")


def make_trainer(
    folder: RunFolder, rows: TrainingRows, method: Method, model: Any, callbacks: Sequence[TrainerCallback]
) -> SFTTrainer:
    """TRL's trainer for one phase of a recipe."""
    recipe = folder.recipe
    lend_fields(model.config.get_text_config(), method.layers)
    args = phase_arguments(recipe, method)
    begin_phase(args, model, method.layers)
    if engine_of(args).startswith("fsdp2"):
        name_layers(model, method.layers)
    trainer = StrictSFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.evaluation,
        processing_class=rows.tokenizer,
        callbacks=[*callbacks],
        router_learning_rate_factor=recipe.run.router_learning_rate_factor,
        learning_rate_factors=method.learning_rate_factors(model),
        stretch=_stretch(recipe, method),
    )
    for shown in (PrinterCallback, ProgressCallback):  # a library prints nothing; the command line has its own
        trainer.remove_callback(shown)
    # The method's numbers are added to a log entry before the recorder and the trackers see it.
    trainer.callback_handler.callbacks.sort(key=lambda item: not isinstance(item, MethodCallback))
    return trainer


def _stretch(recipe: Recipe, method: Method) -> Stretch:
    """The phase's part of the schedule: a schedule of its own, unless the method has one for all phases."""
    if not method.one_schedule:
        return WHOLE
    return Stretch(recipe.phases.index(method.phase), len(recipe.phases))


def phase_arguments(recipe: Recipe, method: Method) -> TrainerConfig:
    """The recipe's `TrainerConfig`, with what `SET_BY_RUN` lists set for this phase."""
    args = copy.copy(recipe.trainer)
    args.output_dir = str(Path(recipe.trainer.output_dir) / method.phase)
    args.chat_template_path = None
    args.completion_only_loss, args.assistant_only_loss = None, False
    args.max_length = recipe.max_length
    args.save_total_limit = None
    position = recipe.phases.index(method.phase)
    args.seed = recipe.trainer.seed + position
    if recipe.trainer.data_seed is not None:  # as the seed: a phase that goes on does not repeat the order of the first
        args.data_seed = recipe.trainer.data_seed + position
    args.router_aux_loss_coef = method.router_aux_loss_coef
    for name, value in recipe.phase_length().items():
        setattr(args, name, value)
    return args


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint was written after the last step of its training."""
    state = read_json(checkpoint / "trainer_state.json")
    return bool(state["global_step"] >= state["max_steps"])


def state_of(checkpoint: Path, *, main: bool) -> TrainerState:
    """The Trainer's state in a checkpoint, which the main process wrote, as the main process or another one has it."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    state.is_world_process_zero = main
    return state


def _close(
    folder: RunFolder, trainer: SFTTrainer, method: Method, callback: MethodCallback, recorder: RunRecorder
) -> None:
    final = folder.final(method.phase)
    run = folder.recipe.run
    base = read_config(resolve_model(run.model), **({"revision": run.revision} if run.revision else {}))
    restore_fields(trainer.model.config.get_text_config(), base.get_text_config())
    trainer.save_model(str(final))
    if folder.main:
        write_json(final / METHOD_STATE, method.state_dict(), indent=None)
        callback.write_history(final)
        steps, tokens = callback.steps, callback.tokens()
        folder.note(folder.record.with_phase(method.phase, steps=steps, tokens=tokens, seconds=recorder.seconds()))
        folder.close(method.phase)
    trainer.accelerator.wait_for_everyone()
