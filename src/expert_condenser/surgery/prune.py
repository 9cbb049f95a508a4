"""A checkpoint without some of its experts, written for good: from a directory to a directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor

from expert_condenser.analysis.subjects import find_subject
from expert_condenser.checkpoint.describe import describe_model, provenance_of
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.checkpoint.load import embedded_name, load_model, load_tokenizer
from expert_condenser.errors import SurgeryError
from expert_condenser.moe.layers import moe_layers
from expert_condenser.surgery.cut import cut_experts
from expert_condenser.surgery.removal import Removed


def prune(source: str, removed: Removed, folder: Path, why: Mapping[str, Any] | None = None) -> None:
    """Write the model in `source` (a run, a directory, a hub name) without the experts `{layer index: ids}`.

    Its type, its routing and the dtypes of its tensors stay. `provenance.json` is that of the source, with `pruned`:
    the source, the numbers of experts, who was removed, and `why`. Raises `SurgeryError` as `cut_experts`.
    """
    subject = find_subject(source)
    model = load_model(subject.path, "auto")
    if isinstance(model, PeftModel):
        raise SurgeryError(f"whole weights are pruned; {source} is an adapter: take the run's model/")
    if getattr(model.config, "quantization_config", None) is not None:
        raise SurgeryError(f"weights are pruned as they are, and those of {source} are quantised: take another version")
    small = cut_experts(model, removed)
    make_savable(small)
    small.save_pretrained(folder)
    load_tokenizer(subject.path).save_pretrained(folder)
    made = {
        "model": embedded_name(subject.path) or subject.path,
        "num_experts": subject.shape.num_experts,
        "num_experts_left": moe_layers(small)[0].num_experts,
        "removed": {str(at): sorted(ids) for at, ids in removed.items()},
        **(why or {}),
    }
    describe_model(folder, {**provenance_of(subject.path), "pruned": made})


def left_of(table: Float[Tensor, "L E"], removed: Removed) -> Float[Tensor, "L n"]:
    """What belongs to the experts that are left, in their new numbers: usage counts, scores, biases."""
    kept = [[i for i in range(table.shape[1]) if i not in set(removed[at])] for at in range(len(table))]
    return torch.stack([row[ids] for row, ids in zip(table, kept, strict=True)])
