"""Exact match without generation: greedy decoding writes the reference if and only if every argmax does.

One forward over a conversation answers it. The whole answer must be equal, its work included, and its end: where a
task looks at the text after `####` alone, generation may also be right in other words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.tokens import Tokens
from expert_condenser.evaluation.likelihood import AnswerLogits, answer_logits, tokens_of
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


def teacher_forced(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    references: Sequence[str],
    *,
    batch_size: int = 64,
) -> TeacherForced:
    """Ask through the chat template, in eval mode; the model is left in the mode that it was in."""
    return judged(model, tokens_of(prompts, references, tokenizer), batch_size=batch_size)


@torch.no_grad()
def judged(model: Any, rows: Sequence[Tokens], *, batch_size: int = 64) -> TeacherForced:
    """The same of rows that are tokens already: every answer of a row counts."""
    found: dict[int, tuple[bool, float, int]] = {}
    training = model.training
    model.eval()
    for batch in in_batches([len(row.ids) for row in rows], batch_size):
        found.update(zip(batch, _judge(answer_logits(model, [rows[index] for index in batch])), strict=True))
    model.train(training)
    exact, nll, tokens = zip(*(found[index] for index in range(len(rows))), strict=True)
    return TeacherForced(list(exact), list(nll), list(tokens))


def _judge(asked: AnswerLogits) -> list[tuple[bool, float, int]]:
    """For every row of a batch: exact or not, nll, and number of the reference's tokens."""
    right = asked.logits.argmax(-1) == asked.ids
    nll = cross_entropy(asked.logits.float(), asked.ids, reduction="none").double()
    ends = list(accumulate(asked.counts))
    return [
        (bool(right[end - count : end].all()), float(nll[end - count : end].sum()), count)
        for end, count in zip(ends, asked.counts, strict=True)
    ]
