"""Exact match without generation: greedy decoding writes the reference if and only if every argmax does.

One forward over a conversation answers it. The whole answer must be equal, its work included, and its end: where a
task looks at the text after `####` alone, generation may also be right in other words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.tokens import render, shared_length
from expert_condenser.evaluation.prompts import Prompt, in_batches


@dataclass(frozen=True)
class TeacherForced:
    """What a model makes of every reference, in the order of the prompts."""

    exact: list[bool]
    """Whether the model's greedy answer is the reference."""
    nll: list[float]
    """Nats over all tokens of the reference, with the end of the turn."""
    tokens: list[int]

    @property
    def accuracy(self) -> float:
        """The share of exact answers."""
        return fmean(self.exact)

    @property
    def nll_per_token(self) -> float:
        """Mean over all tokens, as `likelihood.reference_nll`."""
        return sum(self.nll) / sum(self.tokens)


@torch.no_grad()
def teacher_forced(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    references: Sequence[str],
    *,
    batch_size: int = 64,
) -> TeacherForced:
    """Ask through the chat template, in eval mode; the model is left in the mode that it was in."""
    rows = [_conversation(prompt, reference, tokenizer) for prompt, reference in zip(prompts, references, strict=True)]
    found: dict[int, tuple[bool, float, int]] = {}
    training = model.training
    model.eval()
    for batch in in_batches([len(ids) for ids, _ in rows], batch_size):
        found.update(zip(batch, _judge(model, [rows[index] for index in batch]), strict=True))
    model.train(training)
    exact, nll, tokens = zip(*(found[index] for index in range(len(rows))), strict=True)
    return TeacherForced(list(exact), list(nll), list(tokens))


def _conversation(prompt: Prompt, reference: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """The tokens of prompt and reference, and how many of them are the prompt."""
    turns = list(prompt)
    opening = render(turns, tokenizer, tokenize=True, add_generation_prompt=True)
    whole = render([*turns, {"role": "assistant", "content": reference}], tokenizer, tokenize=True)
    return whole, shared_length(opening, whole)


def _judge(model: Any, rows: list[tuple[list[int], int]]) -> list[tuple[bool, float, int]]:
    """For every row of a batch: exact or not, nll, and number of the reference's tokens."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows], device=model.device)
    lengths = torch.tensor([[len(row), start] for row, start in rows], device=model.device)
    position = torch.arange(width, device=model.device)
    mask = (position < lengths[:, :1]).long()
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits[:, :-1].float()
    asked = ((position >= lengths[:, 1:]) & (mask == 1))[:, 1:]
    log_p = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    right: Tensor = (logits.argmax(-1) == ids[:, 1:]) | ~asked
    nll = -(log_p * asked).sum(1, dtype=torch.float64)
    return list(zip(right.all(1).tolist(), nll.tolist(), asked.sum(1).tolist(), strict=True))
