"""The rows that models are looked at with: rendered by the model's chat template, as training would learn them."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.examples import Reading, build_examples
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.stops import stops_of_model
from expert_condenser.data.tokens import IGNORED, Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.probe import Batch, padded


def read_rows(
    source: str,
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "test",
    limit: int | None = None,
    max_length: int = 1024,
) -> list[Tokens]:
    """The first rows of a data set, cut at `max_length` tokens; `path` is the model's, which says where answers stop.

    Raises `DataError` where a row cannot be read, and `AnalysisError` where none has an answer left.
    """
    reading = Reading(split=split, limit=limit)
    found = build_examples(sources_of(source), tokenizer, stops_of_model(path, tokenizer), reading).dataset
    rows = [_tokens(row["input_ids"][:max_length], row["labels"][:max_length]) for row in found]
    kept = [row for row in rows if row.answers]
    if not kept:
        raise AnalysisError(f"{source} has rows whose answers begin before max_length = {max_length}; raise it")
    return kept


def _tokens(ids: list[int], labels: list[int]) -> Tokens:
    learnt = [0, *(int(label != IGNORED) for label in labels), 0]
    edges = [at for at in range(1, len(learnt)) if learnt[at] != learnt[at - 1]]
    return Tokens(list(ids), [(a - 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)])


def batches_of(rows: Sequence[Tokens], batch_size: int, device: torch.device) -> list[Batch]:
    """Rows as they come, padded on the right."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [padded([row.ids for row in part], [row.labels for row in part], device) for part in parts]
