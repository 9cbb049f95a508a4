"""Scores of the experts on task data, from which ESFT chooses (arXiv 2407.01906, section 3.2)."""

from typing import Any

from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from expert_condenser.methods.esft import ScoreKind, expert_shares
from expert_condenser.moe.usage import measure_usage


def score_experts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    kind: ScoreKind,
    *,
    rows: int,
    max_length: int | None = None,
) -> Float[Tensor, "L E"]:
    """Each expert's share of the selections (`token`) or of the gate weights (`gate`), over whole conversations.

    Of the first `rows` rows, cut at `max_length` tokens; every layer's scores sum to 1.
    """
    texts = [
        tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=True, return_dict=False)[:max_length]
        for row in dataset.select(range(min(rows, len(dataset))))
    ]
    usage = measure_usage(model, tokenizer, texts)
    return expert_shares(usage.counts if kind == "token" else usage.gate_mass)
