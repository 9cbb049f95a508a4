"""TRL's options in a recipe: each is passed on, set by the run, or refused with the reason.

A field that is in neither table is passed on as it stands. tests/training/test_sft_options.py walks over all of them.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import patch_environment
from trl import SFTConfig

from expert_condenser.errors import TrainingError
from expert_condenser.training.option_ranges import check_ranges
from expert_condenser.training.refusals import refusals_named

_UPLOAD = "a run uploads nothing; push the finished model directory yourself"
_BEST = (
    "transformers loads the best checkpoint loosely, which leaves fused experts at the weights of the last step: the "
    "result would be a mixture of two models; evaluate the checkpoints and name the best one"
)
_NO_SCRIPT = "it is read by example scripts, not by a trainer"
_PAIRS = "rows are conversations here, whatever their columns were called"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _BEST),
    "save_only_model": "it leaves nothing to resume from; save_total_limit bounds what checkpoints take",
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"), _UPLOAD
    ),
    "hub_revision": _UPLOAD,
    "resume_from_checkpoint": "write resume: true (--resume), which goes on from the newest whole checkpoint",
    "model_init_kwargs": "write dtype, attn_implementation, experts_implementation, revision or device_map",
    "trust_remote_code": "known families are transformers' own classes; remote code would route by another rule",
    "router_aux_loss_coef": (
        "the method sets the auxiliary-loss coefficient; leave it out, or take method sft_aux and its aux_loss_coef"
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _NO_SCRIPT),
    "dataset_text_field": _PAIRS,
    "dataset_kwargs": "the rows are prepared by the run, and TRL prepares them in its own way",
    "restore_callback_states_from_checkpoint": "the run restores the method's state itself",
}
"""Fields of `SFTConfig` that a recipe cannot set, and why; a value other than TRL's default is an error."""

SET_BY_RUN: Mapping[str, str] = {
    "output_dir": "the phase's folder within the run's",
    "seed": "of phase 2, the next one: its data order is another",
    "data_seed": "of phase 2, the next one, where it is set",
    "num_train_epochs": "an equal share of the whole for every phase",
    "max_steps": "an equal share of the whole for every phase",
    "chat_template_path": "the tokenizer has the template already",
    "router_aux_loss_coef": "the method's",
    "completion_only_loss": "the labels are made already; false is loss_on: everything",
    "assistant_only_loss": "the labels are made already, by loss_on",
    "max_length": "none where padding_free has no padding to cut: the rows are cut already",
    "save_total_limit": "the run deletes older checkpoints itself, once the new one is closed",
}
"""Fields that differ between a recipe and the arguments of a phase, and what the run sets."""

_OPTIMIZERS = (
    (r"layerwise|lomo", None),
    (r"adamw_torch_[48]bit", "torchao"),
    (r"bnb|8bit|32bit|ademamix", "bitsandbytes"),
    (r"galore", "galore_torch"),
    (r"apollo", "apollo_torch"),
    (r"schedule_free", "schedulefree"),
    (r"grokadamw", "grokadamw"),
    (r"stable_adamw", "optimi"),
)
"""Optimizers of other packages, by their names; None: it changes weights within the backward pass, before the step."""


@dataclass
class TrainerConfig(SFTConfig):
    """TRL's options. Their defaults hold except for the fields below."""

    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pinned host memory; on where there is a GPU."}
    )
    num_train_epochs: float = field(
        default=2.0, metadata={"help": "Epochs in all; a method of two phases spends half of them on each."}
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or below 1 the share of all steps."})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "Schedule of each phase."})
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default_factory=lambda: {"min_lr_rate": 0.1}, metadata={"help": "Options of the schedule, as JSON."}
    )
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of each phase."})
    seed: int = field(default=1234, metadata={"help": "Seed of the data order; phase 2 takes the next one."})

    def __post_init__(self) -> None:
        """Raise `TrainingError` on what is refused, before TRL fills in the rest."""
        for f in fields(SFTConfig):
            if f.name in REFUSED and getattr(self, f.name) != default_of(f):
                raise TrainingError(f"{f.name} is not for a recipe: {REFUSED[f.name]}")
        check_ranges(self)
        _check_optimizer(str(getattr(self.optim, "value", self.optim)))
        given = vars(self)["bf16"]
        if given is None and not torch.accelerator.is_available() and not self.use_cpu:
            self.bf16 = False  # TRL's default is bf16, which transformers refuses on a machine without an accelerator
        # Where the options ask for none, transformers takes the launcher's: a recipe in float32 would run in bf16.
        with refusals_named(), patch_environment(accelerate_mixed_precision="no"):
            super().__post_init__()


def default_of(option: Field[Any]) -> Any:
    """The default of a dataclass field."""
    return option.default if option.default_factory is MISSING else option.default_factory()


def _check_optimizer(name: str) -> None:
    """Refuse an optimizer that cannot work before anything is loaded."""
    package = next((package for pattern, package in _OPTIMIZERS if re.search(pattern, name)), "torch")
    if package is None:
        raise TrainingError(
            f"optim {name!r} changes weights during the backward pass, where no step of the method can follow; take "
            "adamw_torch, or a quantised one such as adamw_8bit"
        )
    if find_spec(package) is None:
        raise TrainingError(f"optim {name!r} needs {package}, which is not installed; install it, or take adamw_torch")
