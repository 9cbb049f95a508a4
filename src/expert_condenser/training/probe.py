"""Rows of the training data as batches for a method that looks at the loss before it prepares the model."""

import torch
from datasets import Dataset

from expert_condenser.moe.probe import Batch, padded

_ROWS = 8
"""Rows per batch."""


def batches_of_rows(dataset: Dataset, rows: int, max_length: int | None, device: torch.device) -> list[Batch]:
    """The first `rows` rows, cut at `max_length` tokens, a few at a time."""
    first = dataset.select(range(min(rows, len(dataset))))
    ids, labels = ([row[:max_length] for row in first[name]] for name in ("input_ids", "labels"))
    starts = range(0, len(ids), _ROWS)
    return [padded(ids[start : start + _ROWS], labels[start : start + _ROWS], device) for start in starts]
