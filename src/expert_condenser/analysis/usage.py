"""Activation counts of every expert on a fixed set of texts (paper, Fig. 3)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from expert_condenser.models import moe_layers
from expert_condenser.routing import count_usage


@torch.no_grad()
def measure_usage(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_size: int = 32
) -> Int[Tensor, "L E"]:
    """Hard selections of every expert on the non-padding tokens of `texts`, in eval mode; int64."""
    layers = moe_layers(model)
    totals = torch.zeros(len(layers), layers[0].num_experts, dtype=torch.int64)
    training = model.training
    model.eval()
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(list(texts[start : start + batch_size]), return_tensors="pt", padding=True).to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        mask = inputs["attention_mask"].reshape(-1)
        hooks = [
            layer.router.register_forward_hook(partial(_count, row=row, mask=mask))
            for layer, row in zip(layers, totals, strict=True)
        ]
        try:
            model(**inputs, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    model.train(training)
    return totals


def _count(router: Any, args: Any, output: tuple[Tensor, Tensor, Tensor], *, row: Tensor, mask: Tensor) -> None:
    row += count_usage(output[2], len(row), mask).cpu()
