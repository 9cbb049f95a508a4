"""A look at a model before it trains: the loss on a few rows of the task, with its graph."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
"""The label of a token that is not learnt."""


class Batch(NamedTuple):
    """Some rows, padded on the right."""

    input_ids: Int[Tensor, "B N"]
    attention_mask: Int[Tensor, "B N"]
    labels: Int[Tensor, "B N"]


def padded(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], device: torch.device) -> Batch:
    """Rows of unequal length as one batch."""
    width = max(map(len, ids))

    def filled(rows: Iterable[Sequence[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)

    return Batch(filled(ids, 0), filled(([1] * len(row) for row in ids), 0), filled(labels, IGNORED))


def num_targets(batch: Batch) -> int:
    """How many tokens of a batch are predicted: the first of a row is not."""
    return int((batch.labels[:, 1:] != IGNORED).sum())


def shares_of_loss(model: Any, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Float[Tensor, ""]]]:
    """Every batch, with its share of the mean nll over the learnt tokens of all batches; the shares add up to it."""
    total = sum(map(num_targets, batches))
    for batch in batches:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        labels = batch.labels[:, 1:].to(logits.device)
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        yield batch, nll / total


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Without dropout, and without being counted."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
