"""The inputs and outputs of every layer's experts on some tokens, kept: several analyses ask the same layers again."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from expert_condenser.analysis.rows import batches_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.moe.experts_calls import ExpertsCall, check_calls, on_experts
from expert_condenser.moe.layers import decoder_of, moe_layers
from expert_condenser.moe.probe import in_evaluation


@torch.no_grad()
def calls_by_batch(
    model: Any, rows: Sequence[Tokens], batch_size: int
) -> Iterator[tuple[list[ExpertsCall], Bool[Tensor, " T"]]]:
    """Run the decoder on rows in eval mode; of every batch one call per MoE layer, and which of its tokens are real."""
    layers = moe_layers(model)
    check_calls(layers)
    decoder = decoder_of(model, layers)
    with in_evaluation(model):
        for batch in batches_of(rows, batch_size, model.device):
            found: list[list[ExpertsCall]] = [[] for _ in layers]
            stops = [on_experts(layer, found[at].append) for at, layer in enumerate(layers)]
            try:
                decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            finally:
                for stop in stops:
                    stop()
            yield [calls[0] for calls in found], batch.attention_mask.reshape(-1) != 0


def calls_on(model: Any, rows: Sequence[Tokens], tokens: int, *, batch_size: int = 8) -> list[ExpertsCall]:
    """One call per MoE layer, of the first `tokens` tokens that are not padding (fewer where the rows have fewer)."""
    kept: list[list[ExpertsCall]] = []
    seen = 0
    for calls, real in calls_by_batch(model, rows, batch_size):
        kept.append([_of(call, real, tokens - seen) for call in calls])
        seen += int(real.sum())
        if seen >= tokens:
            break
    return [ExpertsCall(*map(_joined, zip(*parts, strict=True))) for parts in zip(*kept, strict=True)]


def _of(call: ExpertsCall, real: Tensor, count: int) -> ExpertsCall:
    """The first real tokens of a call; what a router gets besides hidden states is of all tokens, and stays."""
    kept = real.to(call.hidden.device).nonzero()[:count, 0]
    routed = tuple(
        x.reshape(-1, x.shape[-1])[kept] if isinstance(x, Tensor) and x.numel() == real.numel() * x.shape[-1] else x
        for x in call.routed
    )
    return ExpertsCall(routed, call.hidden[kept], call.indices[kept], call.weights[kept], call.output[kept])


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    arguments = zip(*parts, strict=True)  # those of the routers
    return tuple(torch.cat(list(x)) if isinstance(x[0], Tensor) and x[0].dim() > 1 else x[0] for x in arguments)
