"""How likely a model finds texts after their contexts: log p of each, as lm-eval's `loglikelihood` has it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.tokens import shared_length
from expert_condenser.evaluation.prompts import Continuation, in_batches


class _Row(NamedTuple):
    """Context and continuation as tokens, and where the continuation begins."""

    ids: list[int]
    start: int


@torch.no_grad()
def log_likelihoods(
    model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Continuation], *, batch_size: int = 32
) -> list[float]:
    """log p in nats of every continuation, summed over its tokens; the end of the turn is none of them.

    Context and continuation are tokenized as one text, special tokens and all, and a token across their border is the
    continuation's. The model is left in the mode that it was in.
    """
    rows = [_row(pair, tokenizer) for pair in pairs]
    training = model.training
    model.eval()
    found = [0.0] * len(rows)
    for batch in in_batches([len(row.ids) for row in rows], batch_size):
        for index, log_p in zip(batch, _batch(model, [rows[index] for index in batch]), strict=True):
            found[index] = log_p
    model.train(training)
    return found


def _row(pair: Continuation, tokenizer: PreTrainedTokenizerBase) -> _Row:
    context, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (pair.context, pair.context + pair.text)
    )
    return _Row(whole, max(1, shared_length(context, whole)))  # nothing precedes the first token


def _batch(model: Any, rows: list[_Row]) -> list[float]:
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    found = []
    for row, (tokens, own) in zip(rows, zip(ids, logits, strict=True), strict=True):
        asked = tokens[row.start : len(row.ids), None]
        log_p = own[row.start - 1 : len(row.ids) - 1].float().log_softmax(dim=-1)
        found.append(log_p.gather(-1, asked).sum().item())
    return found
