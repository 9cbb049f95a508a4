"""A recipe: what to train on what, by which method, with which adapter and which of TRL's options."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.checkpoint.load import EMBEDDED
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.rendering import LOSS_ON
from expert_condenser.data.rows import ON_BAD_ROW
from expert_condenser.errors import TrainingError
from expert_condenser.files import local_path
from expert_condenser.functional.allocation import Allocation
from expert_condenser.methods import METHODS, Method
from expert_condenser.methods.base import Config
from expert_condenser.names import unknown
from expert_condenser.training.sft_options import TrainerConfig

DTYPES = ("float32", "bfloat16", "float16", "auto")
_PER_PROCESS = ("local_rank", "hub_token", "accelerator_config", "parallelism_config")
"""What differs between the processes of one run, or is a secret: not of its record."""


_INPUTS = (
    *("model", "data", "eval_data", "chat_template_path", "condensers_file", "expert_config"),
    *("deepspeed", "fsdp_config", "accelerator_config"),
)
"""Options that may name a file or a directory that a run reads."""
PATHS = (*_INPUTS, "output_dir", "logging_dir")


@dataclass(frozen=True)
class RunConfig:
    """The model, the method, and how the run begins."""

    model: str = field(
        default="testbed", metadata={"help": "Hub name or directory of the base model; 'testbed' is the embedded one."}
    )
    method: str = field(default="condenser", metadata={"help": f"One of {', '.join(METHODS)}."})
    dtype: str = field(default="float32", metadata={"help": "Weights: 'float32', 'bfloat16', or 'auto' (as saved)."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a hub model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "'eager', 'sdpa', 'flash_attention_2', ...; None: transformers' choice."}
    )
    experts_implementation: str | None = field(
        default=None, metadata={"help": "'sorted_mm' (default on a CPU), 'sorted_mm_recompute', 'grouped_mm', 'eager'."}
    )
    device_map: str | None = field(
        default=None, metadata={"help": "Where weights are loaded to, such as 'cuda:0'; None: the trainer moves them."}
    )
    router_learning_rate_factor: float = field(
        default=1.0, metadata={"help": "The routers learn with this times learning_rate."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest whole checkpoint of output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Take the place of an earlier run in output_dir."})

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        if self.method not in METHODS:
            raise TrainingError(unknown("method", self.method, METHODS))
        if self.dtype not in DTYPES:
            raise TrainingError(f"dtype is one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if self.device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            raise TrainingError(
                f"device_map names one device; {self.device_map!r} spreads the layers, whose hooks would replace the "
                "routers' forward. For a model that is too large for one device, start one process per device."
            )
        if not 0 < self.router_learning_rate_factor < float("inf"):
            raise TrainingError(
                "router_learning_rate_factor is above 0 (routers that do not learn: router='freeze'); got "
                f"{self.router_learning_rate_factor}"
            )
        if self.resume and self.overwrite:
            raise TrainingError("resume keeps what output_dir holds and overwrite deletes it; set one of them")


@dataclass(frozen=True)
class DataConfig:
    """The rows to train on, and those to evaluate on meanwhile."""

    data: str = field(
        default="",
        metadata={"help": "Hub name, file, directory, 'testbed:FAMILY[:COUNT]', or a list of {path, weight, split}."},
    )
    split: str = field(default="train", metadata={"help": "Split of a hub data set or directory."})
    data_format: str = field(default="auto", metadata={"help": "Format of the rows; 'auto' goes by their columns."})
    answer_style: str = field(default="auto", metadata={"help": "'boxed', 'plain', or 'auto'."})
    limit: int | None = field(default=None, metadata={"help": "Train on the first N rows only; of a mixture, N."})
    ignore: list[str] = field(
        default_factory=list, metadata={"help": "Columns, and keys of turns, that are meant to be left out."}
    )
    on_bad_row: str = field(default="error", metadata={"help": "A row that cannot be trained: 'error' or 'skip'."})
    loss_on: str = field(
        default="all", metadata={"help": "Answers of a conversation: 'all', 'last'; or 'everything', prompts too."}
    )
    end_of_turn: str | None = field(
        default=None, metadata={"help": "A token that ends an answer where the chat template ends none."}
    )
    chat_template_kwargs: str | None = field(
        default=None, metadata={"help": "What the chat template is told, as JSON; the result's template keeps it."}
    )
    eval_data: str | None = field(default=None, metadata={"help": "Data for eval_loss, in the same format."})
    eval_split: str = field(default="train", metadata={"help": "Split of eval_data; a file has only 'train'."})

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        if not self.data:
            raise TrainingError("a run needs data: set data to a hub name, a file, a directory, or testbed:FAMILY")
        for name in (
            "data",
            "eval_data",
            "chat_template_kwargs",
        ):  # as JSON where a recipe's YAML has a list or mapping
            if isinstance(getattr(self, name), list | tuple | dict):
                object.__setattr__(self, name, json.dumps(getattr(self, name)))
        sources_of(self.data)
        if self.on_bad_row not in ON_BAD_ROW:
            raise TrainingError(f"on_bad_row is one of {', '.join(ON_BAD_ROW)}; got {self.on_bad_row!r}")
        if self.loss_on not in LOSS_ON:
            raise TrainingError(f"loss_on is one of {', '.join(LOSS_ON)}; got {self.loss_on!r}")
        self.template_options()
        if self.eval_data is None and self.eval_split != "train":
            raise TrainingError(f"eval_split is the split of eval_data, and there is none; got {self.eval_split!r}")

    def template_options(self) -> dict[str, Any]:
        """What the chat template is told; raises `TrainingError` where it is no mapping."""
        try:
            options = json.loads(self.chat_template_kwargs or "{}")
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise TrainingError(f"chat_template_kwargs is a mapping, as JSON; got {self.chat_template_kwargs!r}")
        return options


@dataclass(frozen=True)
class Recipe:
    """All options of a run, checked against each other. `Recipe.of(method="sft", data="rows.jsonl")` makes one."""

    run: RunConfig
    data: DataConfig
    method: Config
    """The options of the run's method."""
    adapter: AdapterConfig
    trainer: TrainerConfig

    @classmethod
    def of(cls, **options: Any) -> "Recipe":
        """From option names and values; raises `TrainingError` on one that this recipe does not have."""
        name = options.get("method", RunConfig.method)
        RunConfig(method=name)
        options |= {key: local_path_option(value) for key, value in options.items() if key in PATHS}
        parts = {"run": RunConfig, "data": DataConfig, "method": METHODS[name].Config, **_SHARED}
        taken = {part: {f.name for f in fields(kind) if f.init} & options.keys() for part, kind in parts.items()}
        strange = sorted(options.keys() - set().union(*taken.values()))
        if strange:
            raise TrainingError(unknown_option(strange[0], name))
        made = {part: kind(**{key: options[key] for key in taken[part]}) for part, kind in parts.items()}
        return cls(**made)

    def __post_init__(self) -> None:
        """Raise `TrainingError` on combinations that have no meaning."""
        router = getattr(self.method, "router", None)
        self.adapter.check(router)
        if router == "lora" and self.adapter.lora is None:
            raise TrainingError("router='lora' trains adapters on the routers: set lora as well")
        if getattr(self.method, "top_k", None) is not None and self.adapter.lora is not None:
            raise TrainingError(
                "top_k is a field of the model's config, and an adapter has none; leave one of them out"
            )
        if self.data.eval_data is None and str(self.trainer.eval_strategy) not in ("no", "IntervalStrategy.NO"):
            raise TrainingError("eval_strategy evaluates on eval_data, and there is none; set it, or leave both out")
        reentrant = (self.trainer.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
        if self.run.method == "sft_aux" and self.trainer.gradient_checkpointing and reentrant:
            raise TrainingError(
                "reentrant gradient checkpointing runs the layers without a graph, so the auxiliary loss would reach "
                "no router; set use_reentrant to false in gradient_checkpointing_kwargs"
            )
        self.new_method()

    def new_method(self, phase: str | None = None) -> Method:
        """The recipe's method for one of its phases, the first by default."""
        return METHODS[self.run.method](self.method, phase)

    @property
    def phases(self) -> tuple[str, ...]:
        """The trainings of the run, in order."""
        return METHODS[self.run.method].phases_of(self.method)

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.trainer.device

    @property
    def max_length(self) -> int | None:
        """Where TRL cuts rows; it cuts none without padding, so that the run has to."""
        cuts = not self.trainer.padding_free or self.trainer.packing
        return self.trainer.max_length if cuts else None

    @property
    def loss_on(self) -> str:
        """What is learnt; TRL's own word for all of it is `completion_only_loss: false`."""
        return "everything" if self.trainer.completion_only_loss is False else self.data.loss_on

    @property
    def adapter_targets(self) -> list[str]:
        """What the adapter acts on; empty without one."""
        return self.adapter.targets(getattr(self.method, "router", None))

    def phase_length(self) -> dict[str, float | int]:
        """Epochs and steps of one phase: an equal share of the whole, so that methods train equally long."""
        count, steps, epochs = len(self.phases), self.trainer.max_steps, self.trainer.num_train_epochs
        if steps > 0 and steps % count:
            raise TrainingError(f"max_steps is divided equally among {count} phases; got {steps}")
        if steps <= 0 and count > 1 and epochs % count:
            raise TrainingError(
                f"epochs are divided equally among {count} phases, whole ones, so that all methods take equally "
                f"many steps; got num_train_epochs = {epochs}. Take a multiple, or set max_steps."
            )
        return {"num_train_epochs": epochs / count, "max_steps": steps // count if steps > 0 else steps}

    def flat(self) -> dict[str, Any]:
        """Every option by name, as JSON holds it, without what differs between the processes of one run."""
        own = asdict(self.run) | asdict(self.data) | asdict(self.adapter)
        of_method = {f.name: getattr(self.method, f.name) for f in fields(self.method)}
        own |= {name: str(value) if isinstance(value, Allocation) else value for name, value in of_method.items()}
        trainer = self.trainer.to_dict()
        names = {f.name for f in fields(self.trainer)} & trainer.keys() - set(_PER_PROCESS)
        return dict(sorted((own | {name: trainer[name] for name in names}).items()))

    def inputs(self) -> dict[str, Path]:
        """The files and directories that the run reads, by the option that names them."""
        named = {name: value for name, value in self.flat().items() if name in _INPUTS and isinstance(value, str)}
        for name in ("data", "eval_data"):
            sources = sources_of(named.pop(name)) if name in named else ()
            named |= {f"{name} ({source.path})" if sources[1:] else name: source.path for source in sources}
        paths = {name: local_path(value) for name, value in named.items() if value not in EMBEDDED}
        return {name: path for name, path in paths.items() if path.exists()}

    def going_on(self, *, resume: bool, overwrite: bool) -> "Recipe":
        """The same recipe, with another beginning."""
        return replace(self, run=replace(self.run, resume=resume, overwrite=overwrite))


def local_path_option(value: Any) -> Any:
    """What an option names, with `~` as the home directory; `~` begins no name on the hub."""
    return str(local_path(value)) if isinstance(value, str) and value.startswith("~") else value


_SHARED: dict[str, Any] = {"adapter": AdapterConfig, "trainer": TrainerConfig}


def option_kinds(method: str) -> dict[str, Any]:
    """The dataclasses of a recipe of this method, by the title under which their options are shown."""
    return {"run": RunConfig, "data": DataConfig, f"method {method}": METHODS[method].Config, **_SHARED}


def unknown_option(name: str, method: str) -> str:
    """What to say of a name that is no option of a recipe of this method: whose it is, or which one is near."""
    owners = [other for other, kind in METHODS.items() if name in kind.options()]
    if owners:
        return (
            f"method {method!r} has no option {name!r}: it is of {', '.join(owners)}; leave it out, or take another "
            "method"
        )
    return unknown("option", name, [f.name for kind in option_kinds(method).values() for f in fields(kind)])
