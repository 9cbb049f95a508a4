"""The model of a run: loaded, with its adapter, prepared by its method; and at the end published."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.table import Table
from transformers import AutoConfig, PreTrainedTokenizerBase

from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.load import load_model, resolve_model
from expert_condenser.errors import TrainingError
from expert_condenser.methods import Method
from expert_condenser.methods.esft import Esft
from expert_condenser.moe.experts import default_implementation
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import CondenserModel
from expert_condenser.moe.parameters import count_trainable
from expert_condenser.training.calibrate import score_experts
from expert_condenser.training.recipe import TrainingConfig

MERGE_TOLERANCE = 1e-3
"""Largest difference of any logit that merging an adapter may make, relative to the largest logit, in float32."""


def load_for_training(source: str | Path, config: TrainingConfig, method: Method) -> Any:
    """The model in `source`; of a base, with a new adapter where the recipe asks for one.

    Raises `TrainingError` where the recipe names a base that is a result of such a run.
    """
    experts = config.experts_implementation or default_implementation(config.device.type)
    model = load_model(source, config.dtype, train=True, experts_implementation=experts)
    is_base = str(source) == resolve_model(config.model_name_or_path)
    if is_base and isinstance(model, CondenserModel | PeftModel):
        raise TrainingError(
            f"a run starts from a base model, and {source} is the result of one, with router state or an adapter; "
            "name its base, or --resume the run that made it"
        )
    if is_base and config.lora is not None:
        torch.manual_seed(config.seed)
        model = add_adapter(model, config, config.adapter_targets(config.router), method.routing)
    return model


def choose_experts_by_score(
    method: Esft,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    max_length: int | None,
    device: torch.device,
) -> None:
    """Score the experts on the training data, on the device that trains, and let the method choose."""
    rows = method.config.score_rows
    model.to(device)
    scores = score_experts(model, tokenizer, dataset, method.score, rows=rows, max_length=max_length)
    method.choose(moe_layers(model), scores)


def dtype_of(name: str, path: str) -> torch.dtype:
    """The dtype that a recipe names; `auto` is that of the base model."""
    saved = AutoConfig.from_pretrained(path).get_text_config().dtype if name == "auto" else name
    dtype: torch.dtype = saved if isinstance(saved, torch.dtype) else getattr(torch, saved or "float32")
    return dtype


def trainable_counts(model: Any) -> dict[str, dict[str, int]]:
    """`{group: {"total", "trainable"}}` in numbers of parameters."""
    return {group: asdict(count) for group, count in count_trainable(model, moe_layers(model)).items()}


def trainable_table(counts: dict[str, dict[str, int]]) -> Table:
    """The counts for a person."""
    table = Table(title="What trains")
    for name in ("group", "parameters", "trainable", "share"):
        table.add_column(name, justify="left" if name == "group" else "right")
    total = {key: sum(count[key] for count in counts.values()) for key in ("total", "trainable")}
    for group, count in [*counts.items(), ("all", total)]:
        share = count["trainable"] / count["total"]
        table.add_row(group, f"{count['total']:,}", f"{count['trainable']:,}", f"{share:.1%}")
    return table


@torch.no_grad()
def merge_checked(model: Any) -> tuple[Any, float]:
    """A float32 model with its adapter merged, and the largest relative difference that this made to a logit.

    Raises `TrainingError` above `MERGE_TOLERANCE`.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(64, device=model.device).view(2, 32) * 7919 % vocabulary
    before = model.eval()(input_ids=ids).logits.float()
    merged = model.merge_and_unload()
    after = merged.eval()(input_ids=ids).logits.float()
    difference = ((after - before).abs().max() / before.abs().max()).item()
    if not difference <= MERGE_TOLERANCE:
        raise TrainingError(
            f"a merged adapter computes what it computed before; the logits differ by {difference:.1e} of the largest. "
            "The adapter itself is whole."
        )
    return merged, difference
