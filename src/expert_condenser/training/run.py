"""One run from recipe to model: every phase of a method, each a TRL training, resumable at any step.

output_dir/
    run.json, metrics.jsonl, condensers.json (who became one), expert_cfg.json (whom ESFT trains)
    <phase>/checkpoint-N/     while a phase trains
    <phase>/final/            its weights and router state, from which the next phase starts; usage.safetensors
    model/                    the result; of a LoRA run the merged one, beside adapter/
"""

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoConfig, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from trl import SFTTrainer

from expert_condenser.checkpoint.describe import copy_model, describe_model, save_model
from expert_condenser.checkpoint.guard import clear, is_whole, newest_whole
from expert_condenser.checkpoint.load import load_model, load_tokenizer, resolve_model
from expert_condenser.data.rows import build_dataset
from expert_condenser.data.tokens import length_report
from expert_condenser.errors import TrainingError
from expert_condenser.files import write_json, write_manifest
from expert_condenser.kernels.buffers import keep_freed_memory
from expert_condenser.methods import METHODS, Method
from expert_condenser.methods.condenser import Condenser
from expert_condenser.methods.esft import Esft, ExpertConfig
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.training.auxiliary import check_auxiliary_gradient, lend_fields, restore_fields
from expert_condenser.training.callback import METHOD_STATE, MethodCallback
from expert_condenser.training.model import (
    choose_experts_by_score,
    dtype_of,
    load_for_training,
    merge_checked,
    trainable_counts,
    trainable_table,
)
from expert_condenser.training.recipe import TrainingConfig
from expert_condenser.training.record import RUN
from expert_condenser.training.recorder import RunRecorder
from expert_condenser.training.settings import check_same_run, describe
from expert_condenser.training.trainer import StrictSFTTrainer

EXPERT_CONFIG = "expert_cfg.json"
console = Console(stderr=True)


class Run:
    """The state of one run on disk, and the objects that its phases share."""

    def __init__(self, config: TrainingConfig, callbacks: Sequence[TrainerCallback] = ()) -> None:
        self.config = config
        self.callbacks = callbacks
        self.folder = Path(config.output_dir)
        self.main = config.process_index == 0
        self._check_folder()
        self.chosen_experts: ExpertConfig | None = None
        self.model_path = resolve_model(config.model_name_or_path)
        self.tokenizer: PreTrainedTokenizerBase = self._tokenizer()
        self.train_dataset = self._dataset(config.dataset, config.dataset_split, config.limit)
        self.eval_dataset = (
            None if config.eval_dataset is None else self._dataset(config.eval_dataset, config.eval_split, None)
        )

    def train(self) -> Path:
        """Train every phase that is not done; returns the directory of the finished model."""
        phases = METHODS[self.config.method].phases_of(self.config)
        self.config.phase_length(len(phases))
        model = None if self.config.resume else self._prepared_base(phases[0])
        with self.config.main_process_first(local=False, desc="output_dir"):
            self.record = self._open()
        source: str | Path = self.model_path
        state = None
        for index, phase in enumerate(phases):
            final = self.folder / phase / "final"
            if not is_whole(final):
                checkpoint = self._newest_checkpoint(phase)
                method = self._method(phase)
                model = self._load(checkpoint or source, method) if model is None else model
                self._train_phase(index, method, model, state, checkpoint)
                model = None
            source, state = final, json.loads((final / METHOD_STATE).read_text())
        return self._finish(Path(source))

    def _prepared_base(self, phase: str) -> Any:
        """The base model, prepared for the first phase: its errors come before anything is written or deleted."""
        method = self._method(phase)
        model = self._load(self.model_path, method)
        if isinstance(method, Esft) and method.chosen is None:
            length, device = self.config.max_length, self.config.device
            choose_experts_by_score(method, model, self.tokenizer, self.train_dataset, length, device)
            self.chosen_experts = method.chosen
        method.prepare(model)
        if method.router_aux_loss_coef:
            check_auxiliary_gradient(model, method.layers)
        return model

    def _method(self, phase: str) -> Method:
        """The method of a phase; ESFT with the experts that this run chose."""
        method = METHODS[self.config.method](self.config, phase)
        if isinstance(method, Esft) and method.chosen is None:
            path = self.folder / EXPERT_CONFIG
            resumed = ExpertConfig.read(path) if self.config.resume and path.exists() else None
            method.chosen = self.chosen_experts or resumed
        return method

    def _newest_checkpoint(self, phase: str) -> Path | None:
        """Where a resumed phase goes on; newer checkpoints that a crash left unfinished are deleted."""
        checkpoint, broken = newest_whole(self.folder / phase)
        for path in broken if self.main else []:
            console.print(f"[yellow]{path} is not whole: a crash cut it short, it is deleted[/]")
            clear(path)
        return checkpoint

    def _train_phase(
        self, index: int, method: Method, model: Any, state: dict[str, Any] | None, checkpoint: Path | None
    ) -> None:
        """One phase, from its start or from `checkpoint`, whose weights `model` has; leaves `final`."""
        if state is not None:
            method.load_state_dict(state)
        method.prepare(model)
        if checkpoint is None and self.main:
            self._write_choices(method, model)
        callback = MethodCallback(method)
        trainer = self._trainer(index, method.phase, method, model, callback)
        if self.main:
            console.rule(f"{method.name}: {method.phase} ({index + 1} of {len(method.phases_of(self.config))})")
            console.print(trainable_table(self.record["trainable"]))
        start = time.time()
        if checkpoint is None:
            trainer.train()
        elif is_last(checkpoint):  # a crash came after the last step; the Trainer would take one more
            callback.restore(trainer.args, TrainerState.load_from_json(str(checkpoint / "trainer_state.json")), model)
        else:
            console.print(
                f"going on from {checkpoint}; its experts are loaded whole, whatever the Trainer says of keys"
            )
            trainer.train(resume_from_checkpoint=str(checkpoint))
        self._close_phase(method.phase, trainer, method, callback, time.time() - start)

    def _trainer(self, index: int, phase: str, method: Method, model: Any, callback: MethodCallback) -> SFTTrainer:
        args = copy.copy(self.config)
        args.output_dir = str(self.folder / phase)
        args.chat_template_path = None  # the tokenizer has it already
        args.seed = self.config.seed + index
        args.router_aux_loss_coef = method.router_aux_loss_coef
        lend_fields(model.config.get_text_config(), method.layers)
        for name, value in self.config.phase_length(len(method.phases_of(self.config))).items():
            setattr(args, name, value)
        trainer = StrictSFTTrainer(
            model=model,
            args=args,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.tokenizer,
            callbacks=[callback, RunRecorder(self.folder, phase), *self.callbacks],
        )
        # The method's numbers are added to a log entry before the trackers see it.
        trainer.callback_handler.callbacks.sort(key=lambda item: not isinstance(item, MethodCallback))
        return trainer

    def _close_phase(
        self, phase: str, trainer: SFTTrainer, method: Method, callback: MethodCallback, seconds: float
    ) -> None:
        final = self.folder / phase / "final"
        base = AutoConfig.from_pretrained(self.model_path).get_text_config()
        restore_fields(trainer.model.config.get_text_config(), base)
        trainer.save_model(str(final))
        if self.main:
            (final / METHOD_STATE).write_text(json.dumps(method.state_dict()) + "\n")
            callback.write_history(final)
            self.record["phases"][phase] = {
                "steps": callback.steps,
                "tokens": callback.tokens(),
                "seconds": round(seconds, 1),
            }
            write_json(self.folder / RUN, self.record)
            write_manifest(final)
        trainer.accelerator.wait_for_everyone()

    def _finish(self, final: Path) -> Path:
        """Publish the last phase's weights; copying files works for sharded models too."""
        target = self.folder / "model"
        if self.main:
            provenance = {key: self.record[key] for key in ("method", "versions", "git_commit", "config", "phases")}
            if self.config.lora is None:
                copy_model(final, target)
                describe_model(target, provenance)
            else:
                copy_model(final, self.folder / "adapter")
                describe_model(self.folder / "adapter", provenance)
                model, self.record["merge_difference"] = merge_checked(load_model(final))
                save_model(model.to(dtype_of(self.config.dtype, self.model_path)), self.tokenizer, target, provenance)
            totals = {key: sum(phase[key] for phase in self.record["phases"].values()) for key in ("steps", "tokens")}
            write_json(self.folder / RUN, {**self.record, **totals, "finished": True})
        return target

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; `chat_template_path` (a Jinja file, or another tokenizer) sets its template."""
        tokenizer = load_tokenizer(self.model_path)
        path = self.config.chat_template_path
        if path is not None:
            file = Path(path)
            tokenizer.chat_template = file.read_text() if file.is_file() else load_tokenizer(path).chat_template
        return tokenizer

    def _load(self, source: str | Path, method: Method) -> Any:
        return load_for_training(source, self.config, method)

    def _dataset(self, source: str, split: str, limit: int | None) -> Any:
        dataset = build_dataset(
            source,
            self.tokenizer,
            split=split,
            data_format=self.config.data_format,
            answer_style=self.config.answer_style,
            limit=limit,
        )
        if self.config.max_length is not None:
            self._check_lengths(source, length_report(dataset, self.tokenizer, self.config.max_length))
        return dataset

    def _check_lengths(self, source: str, report: dict[str, float | int]) -> None:
        """Say what truncation costs; raise `TrainingError` where it leaves no answer to learn from."""
        if report["lost"] == report["rows"]:
            raise TrainingError(
                f"{source}: every prompt is as long as max_length = {self.config.max_length} (the longest row has "
                f"{report['longest']} tokens), so no answer is left to learn from; raise max_length"
            )
        if report["truncated"] and self.main:
            console.print(
                f"[yellow]{source}: max_length = {self.config.max_length} cuts {report['truncated']} of "
                f"{report['rows']} rows, {report['lost']} of them before their answer begins[/]"
            )

    def _write_choices(self, method: Method, model: Any) -> None:
        """Who became a condenser and why, which experts ESFT trains, and what trains at all."""
        self.record["trainable"] = trainable_counts(model)
        write_json(self.folder / RUN, self.record)
        if isinstance(method, Condenser) and any(condensers_of(model).values()):
            write_json(self.folder / "condensers.json", method.report(model))
        if isinstance(method, Esft) and method.chosen is not None:
            method.chosen.write(self.folder / EXPERT_CONFIG)

    def _check_folder(self) -> None:
        """Raise `TrainingError` rather than mix two runs; nothing is written yet."""
        path = self.folder / RUN
        if self.config.resume:
            if not path.exists():
                raise TrainingError(f"--resume goes on with a run, and {self.folder} holds none ({RUN} is missing)")
            check_same_run(json.loads(path.read_text()), self.config)
        elif self.main and self.folder.exists() and any(self.folder.iterdir()):
            if not self.config.overwrite:
                raise TrainingError(
                    f"a run starts in an empty output_dir, and {self.folder} is not; --resume goes on with what it "
                    "holds, --overwrite deletes it"
                )
            if not path.exists():
                raise TrainingError(
                    f"--overwrite deletes a run, and {self.folder} holds something else ({RUN} is missing)"
                )

    def _open(self) -> dict[str, Any]:
        """Begin the run on disk, once all that can be checked was; returns its record."""
        path = self.folder / RUN
        if self.main and not self.config.resume:
            clear(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, describe(self.config))
            if self.chosen_experts is not None:
                self.chosen_experts.write(self.folder / EXPERT_CONFIG)
        return json.loads(path.read_text())


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint was written after the last step of its training."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return bool(state["global_step"] >= state["max_steps"])


def train(config: TrainingConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Run a recipe; returns the directory of the finished model. `callbacks` see every phase."""
    if config.device.type == "cpu":
        keep_freed_memory()
    return Run(config, callbacks).train()
