"""How often every expert is chosen on a fixed set of texts, and with which gate weight (paper, Fig. 3; ESFT)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expert_condenser.functional.routing import count_usage
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.handover import Choice
from expert_condenser.moe.layers import MoELayer, decoder_of, moe_layers


class Usage(NamedTuple):
    """Hard selections, and the sum of the gate weights, of every expert over the non-padding tokens."""

    counts: Int[Tensor, "L E"]
    gate_mass: Float[Tensor, "L E"]


@torch.no_grad()
def measure_usage(
    model: Any,
    tokenizer: Any,
    rows: Sequence[list[int]],
    *,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda rows: None,
) -> Usage:
    """Run the decoder on token ids in eval mode; counts are int64, gate weights are summed in float64.

    `advance` is called with the number of rows of every batch.
    """
    layers = moe_layers(model)
    decoder = decoder_of(model, layers)
    shape = len(layers), layers[0].num_experts
    usage = Usage(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch = tokenizer.pad({"input_ids": list(rows[start : start + batch_size])}, return_tensors="pt")
            inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
            _add_batch(decoder, layers, inputs, usage)
            advance(len(inputs["input_ids"]))
    finally:
        model.train(training)
    return usage


def _add_batch(decoder: Any, layers: Sequence[MoELayer], inputs: dict[str, Tensor], usage: Usage) -> None:
    mask = inputs["attention_mask"].reshape(-1)
    stops = [
        on_choice(layer, partial(_count, usage=usage, index=index, mask=mask)) for index, layer in enumerate(layers)
    ]
    try:
        decoder(**inputs, use_cache=False)
    finally:
        for stop in stops:
            stop()


def _count(choice: Choice, *, usage: Usage, index: int, mask: Tensor) -> None:
    weights, indices = choice.weights, choice.indices
    mask = mask.to(indices.device)  # layers may be spread over devices
    real = mask != 0
    usage.counts[index] += count_usage(indices, usage.counts.shape[1], mask).cpu()
    usage.gate_mass[index].index_add_(0, indices[real].reshape(-1).cpu(), weights[real].reshape(-1).cpu().double())
