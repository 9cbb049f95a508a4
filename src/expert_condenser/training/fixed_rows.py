"""`<phase>/routing.safetensors`: which experts take the tokens of a few fixed rows, before a phase and after it.

    tokens (T,) int32, row (T,) int32                  token ids, and the row that each is of
    layers (L,) int32                                  depth of the MoE layers among all layers of the decoder
    start.experts (T, L, S) int16, start.weights       the chosen experts and their gate weights (float16)
    end.experts, end.weights                           the same after the phase's last step; S may be another number

The metadata has the `format_version`: 1. The rows are the first of the data that is evaluated, or else trained on.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.logging import get_logger
from safetensors.torch import load_file, save_file
from torch import Tensor

from expert_condenser.files import replacing
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.handover import Choice
from expert_condenser.moe.layers import decoder_depth, moe_layers
from expert_condenser.moe.probe import in_evaluation
from expert_condenser.moe.split import is_split

ROUTING = "routing.safetensors"
FORMAT_VERSION = 1
ROWS, LENGTH = 8, 128
"""How many rows, and how many tokens of each at most."""
logger = get_logger(__name__)


def record_routing(model: Any, rows: Sequence[list[int]], folder: Path, moment: Literal["start", "end"]) -> None:
    """Add one moment to the file of a folder, whole or not at all; `start` begins it anew.

    Where the weights are split over processes nothing is recorded: they would have to run this forward together.
    """
    if is_split(model):
        logger.info(f"{ROUTING} is not written: the weights are split over processes")
        return
    kept = [row[:LENGTH] for row in rows[:ROWS]]
    path = folder / ROUTING
    tensors = load_file(path) if moment == "end" and path.exists() else {}
    tensors |= {
        "tokens": torch.tensor([token for row in kept for token in row], dtype=torch.int32),
        "row": torch.tensor([index for index, row in enumerate(kept) for _ in row], dtype=torch.int32),
        "layers": torch.tensor([decoder_depth(layer) for layer in moe_layers(model)], dtype=torch.int32),
    }
    experts, weights = choices_on(model, kept)
    tensors |= {f"{moment}.experts": experts.to(torch.int16), f"{moment}.weights": weights.half()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_path:
        save_file(tensors, partial_path, metadata={"format_version": str(FORMAT_VERSION)})


@torch.no_grad()
def choices_on(model: Any, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """The experts `(T, L, S)` and gate weights of every token, row after row; slots that a layer lacks are -1 and 0."""
    layers = moe_layers(model)
    found: list[list[Choice]] = [[] for _ in layers]
    stops = [on_choice(layer, partial(list.append, found[index])) for index, layer in enumerate(layers)]
    try:
        with in_evaluation(model):
            for row in rows:  # one at a time: no padding, and nothing depends on what else is in a batch
                model(input_ids=torch.tensor([row], device=model.device), use_cache=False)
    finally:
        for stop in stops:
            stop()
    slots = max(choice.indices.shape[-1] for of_layer in found for choice in of_layer)
    experts, weights = (
        torch.stack([torch.cat([_padded(getattr(c, name), slots, value) for c in of]) for of in found], dim=1)
        for name, value in (("indices", -1), ("weights", 0))
    )
    return experts, weights


def _padded(columns: Tensor, slots: int, value: int) -> Tensor:
    return torch.nn.functional.pad(columns.detach().cpu(), (0, slots - columns.shape[-1]), value=value)
