"""The clock: one callback that turns a step of any `transformers.Trainer` into a step of a method."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from expert_condenser.errors import FailedRunError, TrainingError
from expert_condenser.files import read_json
from expert_condenser.methods.base import Method
from expert_condenser.moe.attachment import Attachment, find_attachment
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.saving import check_adapters
from expert_condenser.moe.slices import is_sliced
from expert_condenser.moe.split import is_split, is_zero3, total
from expert_condenser.moe.state import check_layers
from expert_condenser.training.agreement import check_agreement
from expert_condenser.training.auxiliary import check_auxiliary_coefficient, check_auxiliary_gradient
from expert_condenser.training.history import USAGE_HISTORY, UsageHistory
from expert_condenser.training.method_state import restore_method
from expert_condenser.training.restore import restore_weights
from expert_condenser.training.usage import StepUsage, check_counted, collect

METHOD_STATE = "method_state.json"
PREFIX = "moe/"
"""In front of what the method and the experts add, for trackers, which group by it."""
_NOT_FOR_TRACKERS = ("entropy", "mean_token_accuracy")
"""TRL's extras stay in the log history; trackers get twelve scalars, all of them read in practice."""


class MethodCallback(TrainerCallback):
    """Counts over all micro-batches and processes, one update per optimizer step, metrics in every log.

    Works in a bare `Trainer` as in TRL's::

        method = METHODS["bias_only"](MethodConfig(bias_step=1e-3))
        method.prepare(model)
        trainer = Trainer(model, ..., callbacks=[MethodCallback(method)])

    Every checkpoint also gets the method's state and the usage history, which `output_dir` has as well while it grows
    (see `history`). The metrics are added to the log entry of the step: `nll` (the loss without auxiliary term;
    `eval_nll` in evaluations), `expert_diversity`,
    `usage_gini`, `dead_experts`, and for methods with a bias `bias_range`, `route_churn` (share of the
    tokens whose experts the bias changed) and `condenser_gate_share`.

    On a resume, and after `load_best_model_at_end`, the weights are those of the checkpoint, experts included, which a
    `Trainer` alone leaves out. `loaded_from` is the checkpoint that the model was loaded from whole, if it was.
    `saves_slices`: the trainer writes ESFT's slices back before it saves under ZeRO-3, as `condenser train` does.
    """

    def __init__(self, method: Method, loaded_from: Path | None = None, *, saves_slices: bool = False) -> None:
        self.method = method
        self.loaded_from = loaded_from
        self.saves_slices = saves_slices
        self.last: StepUsage | None = None
        self._interval: torch.Tensor | None = None
        self._history = UsageHistory()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Find the routers; on a resume, read what the checkpoint holds."""
        self.layers = moe_layers(model)
        self.attachment = self._prepared_attachment(model)
        self._check_placement(args, model)
        routers = [p for layer in self.layers for p in layer.router.parameters() if p.requires_grad]
        self._watched = routers or [p for p in model.parameters() if p.requires_grad]
        check_auxiliary_coefficient(model, args, self.method.router_aux_loss_coef)
        if self.method.router_aux_loss_coef:
            check_auxiliary_gradient(model, self.layers)
        self.steps = state.global_step
        if state.global_step:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._restore(checkpoint)
            if state.is_world_process_zero:  # what the file in `output_dir` has of steps that were lost goes
                self.write_history(Path(args.output_dir))
            check_same_training(checkpoint, state)
            if self.loaded_from is None or self.loaded_from.resolve() != checkpoint.resolve():
                restore_weights(model, checkpoint)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a step's counts from zero; take the detailed ones if it will be logged."""
        step = state.global_step + 1
        every = state.logging_steps or 1
        detailed = step % every == 0 or step == 1
        self.attachment.reset(detailed=detailed)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop before a gradient that is not finite reaches the weights: it shows in the routers of every layer."""
        gradients = [parameter.grad for parameter in self._watched if parameter.grad is not None]
        if not args.fp16 and gradients and not total(gradients).isfinite():
            raise FailedRunError(
                f"a gradient is not finite at step {state.global_step + 1}; the last checkpoint is kept"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Reduce the usage of the step and let the method act on it; a skipped step (fp16 overflow) counts nothing."""
        self.last = collect(self.attachment)
        check_counted(self.last, self.layers, state.global_step + 1)
        if getattr(optimizer, "step_was_skipped", False):
            return
        by_mass = getattr(self.attachment.policy, "usage", "count") == "mass"
        self.steps += 1
        self.method.now = state.global_step + 1, state.max_steps
        self.method.step(self.last.mass if by_mass else self.last.counts)
        if self.attachment.watch.detailed:
            check_agreement(self.attachment, state.global_step + 1)
        self._interval = self.last.counts if self._interval is None else self._interval + self.last.counts

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the metrics to the log entry and close the interval of the usage history."""
        if logs and "eval_loss" in logs:
            logs["eval_nll"] = state.log_history[-1]["eval_nll"] = self._nll(logs, "eval_")
        if not logs or "loss" not in logs or self.last is None:
            return
        of_experts = {**self.last.metrics(self.attachment), **self.method.metrics()}
        self._close_interval(state.global_step)
        if state.is_world_process_zero:
            self._history.follow(Path(args.output_dir))
        plain = {"nll": self._nll(logs), "num_tokens": self.tokens()}
        state.log_history[-1].update({**plain, **of_experts})
        logs.update({**plain, **{f"{PREFIX}{name}": value for name, value in of_experts.items()}})
        for name in _NOT_FOR_TRACKERS:
            logs.pop(name, None)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise FailedRunError(f"{name} is {logs[name]} at step {state.global_step}; the last checkpoint is kept")

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Close the last interval of the usage history, which may end between two logs; complete the best model."""
        self._close_interval(state.global_step)
        if state.is_world_process_zero:
            self.write_history(Path(args.output_dir))
        check_agreement(self.attachment, state.global_step)
        if getattr(args, "load_best_model_at_end", False) and state.best_model_checkpoint is not None:
            restore_weights(model, Path(state.best_model_checkpoint))

    def restore(self, args: Any, state: Any, model: Any) -> None:
        """Take over a training that had finished when its process was killed."""
        self.on_train_begin(args, state, None, model=model)
        self.on_train_end(args, state, None, model=model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the method's state and the usage history into the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            content = {
                **self.method.state_dict(),
                "interval": None if self._interval is None else self._interval.tolist(),
            }
            (folder / METHOD_STATE).write_text(json.dumps(content) + "\n")
            self.write_history(folder)

    def write_history(self, folder: Path) -> None:
        """`usage.safetensors`, see `history`."""
        self._history.write(folder)

    def _close_interval(self, step: int) -> None:
        """Add the open interval to the history, if there is one."""
        if self._interval is None:
            return
        with_bias = self.attachment.policy is not None
        biases = [router.selection_bias.detach().cpu() for router in self.attachment.routers if with_bias]
        self._history.add(step, self._interval, torch.stack(biases) if biases else None)
        self._interval = None

    def tokens(self) -> int:
        """Real tokens of this training so far, also those before a resume."""
        policy = self.attachment.policy
        additive = policy is not None and policy.budget == "additive"
        extra = len(self.attachment.routers[0].condenser_ids) if additive else 0
        selections = sum(int(counts[0].sum()) for counts in self._history.counts)
        pending = 0 if self._interval is None else int(self._interval[0].sum())
        return (selections + pending) // (self.layers[0].top_k + extra)

    def _prepared_attachment(self, model: Any) -> Attachment:
        """What `method.prepare` attached; every router of the model as it trains belongs to it."""
        attachment = find_attachment(model)
        prepared, found = getattr(self.method, "layers", ()), [layer.router for layer in self.layers]
        if attachment is None or not all(_are(attachment.routers, x) for x in ([y.router for y in prepared], found)):
            raise TrainingError(
                "the callback acts on the model that method.prepare(model) was called on, with the routers that it had "
                "then; got another one"
            )
        if attachment.policy is not None:
            check_adapters(model)
            check_layers(self.layers)
        return attachment

    def _check_placement(self, args: Any, model: Any) -> None:
        """Whole weights and counts have to be where the method can reach them."""
        if getattr(args, "n_gpu", 0) > 1:
            raise TrainingError(
                "nn.DataParallel runs copies of the routers, whose counts are lost; start one process per GPU with "
                "torchrun or accelerate launch"
            )
        if self.method.whole_weights and is_split(model):
            raise TrainingError(
                f"{self.method.name} works on whole weights, and these are split over processes (FSDP2 or ZeRO-3); use "
                "DDP, or ZeRO-1 or 2"
            )
        if not self.saves_slices and any(map(is_sliced, self.layers)) and is_zero3(model):
            raise TrainingError(
                "ESFT's slices are written into the weights when these are saved, and DeepSpeed ZeRO-3 goes past that; "
                "use condenser train, FSDP2, or ZeRO-1 or 2"
            )
        offloaded = [name for name, p in model.named_parameters() if p.requires_grad and p.device.type == "meta"]
        if offloaded:
            raise TrainingError(
                f"an optimizer trains weights in memory; {len(offloaded)} of them are offloaded ({offloaded[0]}, ...). "
                "Load the model without device_map, or over devices that hold all of it"
            )

    def _restore(self, folder: Path) -> None:
        path = folder / METHOD_STATE
        if not path.exists():
            raise TrainingError(
                f"a resume needs {METHOD_STATE} in the checkpoint; {folder} has none: it is not of such a run"
            )
        content = read_json(path)
        if not isinstance(content, dict) or "interval" not in content:
            raise TrainingError(f"{path} is a method's state as a checkpoint has it; this one is damaged: take another")
        try:
            interval = content.pop("interval")
            self._interval = None if interval is None else torch.tensor(interval, dtype=torch.int64)
            path = folder / USAGE_HISTORY
            self._history = UsageHistory.read(path) if path.exists() else UsageHistory()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a `DataError` is one too
            raise TrainingError(
                f"{path} counts what experts did; this one is damaged ({error}): take another"
            ) from error
        restore_method(self.method, content, folder / METHOD_STATE)

    def _nll(self, logs: dict[str, Any], prefix: str = "") -> float:
        auxiliary = logs.get(f"{prefix}aux_loss")
        return float(logs[f"{prefix}loss"]) - (self.method.router_aux_loss_coef * auxiliary if auxiliary else 0.0)


def check_same_training(checkpoint: Path, state: Any) -> None:
    """Raise `TrainingError` where a `Trainer` resumed from another training than that whose checkpoint this is.

    A callback is not told from where: `Trainer.train(resume_from_checkpoint=...)` may name any folder.
    """
    saved = read_json(checkpoint / "trainer_state.json")["log_history"]
    if json.dumps(saved) != json.dumps(state.log_history):  # as text, in which NaN equals itself
        raise TrainingError(
            f"a resume is from a checkpoint in output_dir, and the Trainer has read another one than {checkpoint}, "
            "since their logs differ. Give the Trainer the output_dir of the checkpoint, or a copy of it"
        )


def _are(routers: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(routers) == len(others) and all(a is b for a, b in zip(routers, others, strict=True))
