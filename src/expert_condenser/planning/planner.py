"""A recipe on a machine: its model is traced as often as a plan needs it, each way once."""

from dataclasses import dataclass, replace
from math import inf

import torch

from expert_condenser.checkpoint.load import resolve_model
from expert_condenser.errors import PlanError
from expert_condenser.planning.engines import Engine, Kept, Setting, computes_in_half, kept_by
from expert_condenser.planning.model import build, config_of, without_data
from expert_condenser.planning.sized_experts import planned_implementation
from expert_condenser.planning.sizes import Sizes, sizes_of
from expert_condenser.planning.trace import Batch, Trace, trace
from expert_condenser.training.engines.expert_parallel import EP
from expert_condenser.training.engines.support import refusal
from expert_condenser.training.model import dtype_of
from expert_condenser.training.recipe import Recipe

_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What families raise on a config that makes no model, and on tensors without data."""
_ONE_MACHINE = 8


@dataclass(frozen=True)
class Machine:
    """What a training runs on."""

    devices: int = 1
    memory: int = 80 * 10**9
    """Bytes of one device."""
    device: str = "cuda"
    flops: float = 400e12
    """The rate of one device, FLOPs per second."""
    utilisation: float = 0.3
    """The share of that rate that a training reaches."""
    price: float = 2.0
    """Of one device and hour."""

    def __post_init__(self) -> None:
        """Raise `PlanError` where there is no such machine."""
        if self.devices < 1 or self.memory < 1:
            raise PlanError(f"a plan is for at least 1 device with memory; got {self.devices} of {self.memory} bytes")
        if not 0 < self.flops < inf or not 0 < self.utilisation <= 1 or not 0 <= self.price < inf:
            raise PlanError(
                "flops_per_device is above 0, utilisation in (0, 1], price_per_hour at least 0, and none is infinite; "
                f"got {self.flops}, {self.utilisation}, {self.price}"
            )


@dataclass(frozen=True)
class Outlook:
    """A training on one engine."""

    kept: Kept
    fits: bool
    refused: str | None = None
    """Why the product does not train so today."""


class Planner:
    """Traces a recipe's model as often as a plan needs it, each way once."""

    def __init__(self, recipe: Recipe, machine: Machine, share: float | None = None) -> None:
        if share is not None and not recipe.new_method().calibration_rows:
            raise PlanError(
                f"expert_share is of a method that chooses experts on data, and {recipe.run.method} with these options "
                "chooses none so; leave it out"
            )
        self.recipe, self.machine, self.share = recipe, machine, share
        self.config = config_of(recipe)
        self.dtype = dtype_of(recipe.run.dtype, resolve_model(recipe.run.model))
        trainer = recipe.trainer
        self.autocast = torch.bfloat16 if trainer.bf16 else torch.float16 if trainer.fp16 else None
        self._traces: dict[tuple[bool, bool], Trace] = {}
        self.sizes: Sizes
        self.top_k = self.experts = 1

    @property
    def batch(self) -> Batch:
        """One micro-batch of the recipe, at its full length."""
        trainer = self.recipe.trainer
        length = trainer.max_length
        if length is None:
            raise PlanError("a plan is for rows of max_length tokens, and the recipe has none; set it")
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None) or length
        rows = trainer.per_device_train_batch_size
        return Batch(rows, min(length, limit), trainer.gradient_accumulation_steps, self.autocast)

    @property
    def checkpoints(self) -> bool:
        """Whether the recipe computes activations again."""
        return bool(self.recipe.trainer.gradient_checkpointing)

    def trace(self, *, checkpointing: bool, half: bool = False) -> Trace:
        """One micro-batch; with `half` on weights that are in autocast's half precision themselves."""
        key = checkpointing, half and self.autocast not in (None, self.dtype)
        if key not in self._traces:
            self._traces[key] = self._trace(*key)
        return self._traces[key]

    def _trace(self, checkpointing: bool, half: bool) -> Trace:
        name = planned_implementation(self.recipe.run.experts_implementation, self.machine.device)
        dtype = self.autocast if half and self.autocast is not None else self.dtype
        batch = replace(self.batch, autocast=None) if half else self.batch
        options = (self.recipe.trainer.gradient_checkpointing_kwargs or {}) if checkpointing else None
        try:
            with without_data():
                model, method = build(self.config, self.recipe, name, dtype, self.share)
                if not half:
                    self.sizes = sizes_of(model, method)
                    self.top_k, self.experts = method.layers[0].top_k, method.layers[0].num_experts
                return trace(model, method, batch, checkpointing=options)
        except _REFUSALS as error:
            raise PlanError(
                f"a plan runs the model on tensors without data, and {self.config.model_type} asks for values: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error

    def setting(self, master_weights: bool | None = None) -> Setting:
        """What the engines' bytes depend on."""
        return Setting(
            self.machine.devices,
            str(getattr(self.recipe.trainer.optim, "value", self.recipe.trainer.optim)),
            None if self.autocast is None else self.autocast.itemsize,
            self.batch.tokens * self.top_k,
            self.config.get_text_config().hidden_size,
            master_weights,
        )

    def outlook(self, engine: Engine, *, checkpointing: bool | None = None, master: bool | None = None) -> Outlook:
        """The training on one engine."""
        checkpointing = self.checkpoints if checkpointing is None else checkpointing
        own = self.trace(checkpointing=checkpointing)  # also counts the model
        setting = self.setting(master)
        half = computes_in_half(engine, setting)
        traced = self.trace(checkpointing=checkpointing, half=True) if half else own
        kept = kept_by(engine, self.sizes, traced, setting)
        refused = refusal(self.recipe, engine.name) or (self._uneven() if engine.name == EP else None)
        return Outlook(kept, kept.total <= self.machine.memory, refused)

    def _uneven(self) -> str | None:
        """Why expert parallelism does not load the model, whose experts the processes of a machine share evenly.

        A plan does not know how many devices a machine has; up to eight they are taken for those of one.
        """
        devices = self.machine.devices
        if devices > _ONE_MACHINE or self.experts % devices == 0:
            return None
        return f"ep gives every process as many experts, and {self.experts} are not divided by {devices} devices"

    def warnings(self) -> list[str]:
        """What is wrong with the recipe's precision."""
        spread = getattr(self.config.get_text_config(), "initializer_range", None) or 0.02
        rate = self.recipe.trainer.learning_rate
        if self.dtype.itemsize > 2 or self.recipe.adapter.lora is not None:
            return []
        lost = torch.finfo(self.dtype).eps / 4  # half of the least step of a number just below a power of two
        if rate / spread >= lost:
            return []
        return [
            f"dtype {self.recipe.run.dtype} keeps the weights in half precision: a step of learning_rate {rate} on a "
            f"weight of {spread} is a relative change of {rate / spread:.1e}, below {lost:.1e}, and rounds to nothing. "
            "Take dtype float32 with bf16 true, or a learning_rate above "
            f"{lost * spread:.0e}."
        ]

    def total_tokens(self, tokens: int | None) -> int:
        """Tokens of the whole training: those given, or those of `max_steps`, or of one optimizer step."""
        trainer = self.recipe.trainer
        step = self.batch.tokens * trainer.gradient_accumulation_steps * self.machine.devices
        return tokens if tokens is not None else step * max(trainer.max_steps, 1)
