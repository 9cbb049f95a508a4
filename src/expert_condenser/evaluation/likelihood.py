"""How likely a model finds the reference answers: nll per token, teacher-forced, through the chat template."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.tokens import render, shared_length
from expert_condenser.evaluation.prompts import Prompt, in_batches


@torch.no_grad()
def reference_nll(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    references: Sequence[str],
    *,
    batch_size: int = 32,
) -> float:
    """Mean nll in nats over all tokens of the references, with the end of the turn: training's loss on these rows."""
    rows = [_tokens(prompt, reference, tokenizer) for prompt, reference in zip(prompts, references, strict=True)]
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in in_batches([len(ids) for ids, _ in rows], batch_size):
        loss, tokens = _batch_nll(model, [rows[index] for index in batch])
        total, count = total + loss, count + tokens
    model.train(training)
    return total / count


def _tokens(prompt: Prompt, reference: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """The whole conversation, and how many of its tokens are the prompt."""
    turns = list(prompt)
    opening = render(turns, tokenizer, tokenize=True, add_generation_prompt=True)
    whole = render([*turns, {"role": "assistant", "content": reference}], tokenizer, tokenize=True)
    return whole, shared_length(opening, whole)


def _batch_nll(model: Any, rows: list[tuple[list[int], int]]) -> tuple[float, int]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows], device=model.device)
    answered = torch.tensor([[start <= at < len(row) for at in range(1, width)] for row, start in rows])
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    at = answered.to(model.device)
    loss = cross_entropy(logits[:, :-1][at].float(), ids[:, 1:][at], reduction="sum")
    return loss.item(), int(answered.sum())
