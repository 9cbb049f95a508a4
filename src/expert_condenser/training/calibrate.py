"""What the experts of a model do on task data: what a method asks for before it prepares the model."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from expert_condenser.moe.usage import Usage, measure_usage


def usage_on_rows(
    model: Any, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, rows: int, max_length: int | None = None
) -> Usage:
    """Selections and gate weights of every expert over whole conversations.

    Of the first `rows` rows, cut at `max_length` tokens (ESFT, arXiv 2407.01906, section 3.2).
    """
    texts = [ids[:max_length] for ids in dataset.select(range(min(rows, len(dataset))))["input_ids"]]
    return measure_usage(model, tokenizer, texts)
