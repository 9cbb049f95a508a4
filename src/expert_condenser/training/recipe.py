"""All options of a run: TRL's `SFTConfig`, the methods' options, and what to train on what.

`condenser train --config recipe.yaml --field value` reads these fields; an unknown one is an error.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from trl import SFTConfig, TrlParser

from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.errors import TrainingError
from expert_condenser.methods import METHODS, MethodConfig


@dataclass
class TrainingConfig(AdapterConfig, MethodConfig, SFTConfig):
    """One recipe. The defaults of `SFTConfig` hold except for the fields below."""

    model_name_or_path: str = field(
        default="testbed", metadata={"help": "Hub name or directory of the base model; 'testbed' is the embedded one."}
    )
    method: str = field(default="condenser", metadata={"help": f"One of {', '.join(METHODS)}."})
    dataset: str = field(
        default="",
        metadata={"help": "Hub name, .json/.jsonl/.parquet file, directory of those, or 'testbed:FAMILY[:COUNT]'."},
    )
    dataset_split: str = field(default="train", metadata={"help": "Split of a hub data set or directory."})
    data_format: str = field(default="auto", metadata={"help": "Format of the rows; 'auto' goes by their columns."})
    answer_style: str = field(default="auto", metadata={"help": "'boxed', 'plain', or 'auto'."})
    limit: int | None = field(default=None, metadata={"help": "Train on the first N rows only."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Data for eval_loss, in the same format."})
    eval_split: str = field(default="train", metadata={"help": "Split of eval_dataset; a file has only 'train'."})
    dtype: str = field(default="float32", metadata={"help": "Weights: 'float32', 'bfloat16', or 'auto' (as saved)."})
    experts_implementation: str | None = field(
        default=None, metadata={"help": "'sorted_mm' (default on a CPU), 'sorted_mm_recompute', 'grouped_mm', 'eager'."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest whole checkpoint of output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Delete what output_dir holds and start again."})

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
        """Check what can be checked before anything is loaded."""
        if self.method not in METHODS:
            raise TrainingError(f"method is one of {', '.join(METHODS)}; got {self.method!r}")
        if self.dtype not in ("float32", "bfloat16", "float16", "auto"):
            raise TrainingError(f"dtype is float32, bfloat16, float16 or auto; got {self.dtype!r}")
        if not self.dataset:
            raise TrainingError("a run needs data: set dataset to a hub name, a file, a directory, or testbed:FAMILY")
        self.num_condensers = str(self.num_condensers)  # YAML reads a bare 2 as a number
        if self.eval_dataset is None and self.eval_split != "train":
            raise TrainingError(f"eval_split is the split of eval_dataset, and there is none; got {self.eval_split!r}")
        if self.resume and self.overwrite:
            raise TrainingError("resume keeps what output_dir holds and overwrite deletes it; set one of them")
        if self.load_best_model_at_end or self.save_only_model:
            raise TrainingError(
                "load_best_model_at_end mixes two models, since transformers reads fused experts loosely, and "
                "save_only_model leaves nothing to resume from; leave both out"
            )
        if self.push_to_hub:
            raise TrainingError("runs upload nothing; push the finished model directory yourself")
        self._check_method_options()
        self.check_adapter(self.router)
        super().__post_init__()
        self._check_checkpointing()

    def phase_length(self, num_phases: int) -> dict[str, float | int]:
        """Epochs and steps of one phase: an equal share of the whole, so that methods train equally long."""
        if self.max_steps > 0 and self.max_steps % num_phases:
            raise TrainingError(f"max_steps is divided equally among {num_phases} phases; got {self.max_steps}")
        if self.max_steps <= 0 and num_phases > 1 and self.num_train_epochs % num_phases:
            raise TrainingError(
                f"epochs are divided equally among {num_phases} phases, whole ones, so that all methods take equally "
                f"many steps; got num_train_epochs = {self.num_train_epochs}. Take a multiple, or set max_steps."
            )
        steps = self.max_steps // num_phases if self.max_steps > 0 else self.max_steps
        return {"num_train_epochs": self.num_train_epochs / num_phases, "max_steps": steps}

    def _check_method_options(self) -> None:
        options = METHODS[self.method].options
        idle = [f.name for f in fields(MethodConfig) if f.name not in options and getattr(self, f.name) != f.default]
        if idle:
            raise TrainingError(
                f"method {self.method!r} has no use for {', '.join(idle)}; leave out what has no effect"
            )
        if self.router_aux_loss_coef is not None:
            raise TrainingError(
                "the method sets the auxiliary-loss coefficient: leave router_aux_loss_coef out, or take method "
                "sft_aux and its aux_loss_coef"
            )
        if self.router == "lora" and self.lora is None:
            raise TrainingError("router='lora' trains adapters on the routers: set lora as well")
        if self.top_k is not None and self.lora is not None:
            raise TrainingError(
                "top_k is a field of the model's config, and an adapter has none; leave one of them out"
            )
        METHODS[self.method](self)

    def _check_checkpointing(self) -> None:
        """After `SFTConfig` has parsed its options."""
        reentrant = (self.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
        if self.method == "sft_aux" and self.gradient_checkpointing and reentrant:
            raise TrainingError(
                "reentrant gradient checkpointing runs the layers without a graph, so the auxiliary loss would reach "
                "no router; set use_reentrant to false in gradient_checkpointing_kwargs"
            )


def parse_config(arguments: list[str]) -> TrainingConfig:
    """`--config recipe.yaml --field value ...`; raises `TrainingError` on an unknown field, with its name."""
    if "--config" in arguments:
        position = arguments.index("--config") + 1
        path = Path(arguments[position]) if position < len(arguments) else None
        if path is None or not path.is_file():
            raise TrainingError(f"--config takes a YAML file; got {path}")
    parser = TrlParser(dataclass_types=[TrainingConfig], allow_abbrev=False)
    try:
        (config,) = parser.parse_args_and_config(arguments)
    except (ValueError, yaml.YAMLError) as error:
        raise TrainingError(str(error)) from error
    return config
