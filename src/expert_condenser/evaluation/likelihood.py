"""How likely a model finds the reference answers: nll per token, teacher-forced, through the chat template."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.conversation import Conversation
from expert_condenser.data.rendering import Renderer
from expert_condenser.data.tokens import Tokens, encode
from expert_condenser.errors import DataError, EvaluationError
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
    return mean_nll(batch_nlls(model, tokenizer, prompts, references, batch_size=batch_size))


@torch.no_grad()
def batch_nlls(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    references: Sequence[str],
    *,
    batch_size: int,
    part: int = 0,
    parts: int = 1,
) -> list[tuple[float, int]]:
    """For every batch, nats over its references and their tokens; of several `parts`, each `parts`-th from `part`."""
    rows = tokens_of(prompts, references, tokenizer)
    training = model.training
    model.eval()
    batches = list(in_batches([len(row.ids) for row in rows], batch_size))[part::parts]
    found = [_batch_nll(model, [rows[index] for index in batch]) for batch in batches]
    model.train(training)
    return found


def mean_nll(batches: Sequence[tuple[float, int]]) -> float:
    """Mean over all tokens, added batch after batch: the order decides the last bits."""
    total, count = 0.0, 0
    for loss, tokens in batches:  # and not `sum`, which corrects them from Python 3.12 on
        total, count = total + loss, count + tokens
    return total / count


def tokens_of(prompts: Sequence[Prompt], references: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    """The reference answers behind their prompts, as training would learn them.

    Raises `EvaluationError` where the chat template cannot show one.
    """
    renderer = Renderer(tokenizer, loss_on="last")
    rows = [
        Conversation((*prompt, {"role": "assistant", "content": text}), (*(False for _ in prompt), True))
        for prompt, text in zip(prompts, references, strict=True)
    ]
    try:
        found = list(encode([passage for row in rows for passage in renderer.passages(row)], tokenizer))
        for each in found:
            if isinstance(each, DataError):
                raise each
    except DataError as error:
        raise EvaluationError(f"the nll of a reference answer cannot be computed: {error}") from error
    return [tokens for each in found if isinstance(each, list) for tokens in each]


def _batch_nll(model: Any, rows: list[Tokens]) -> tuple[float, int]:
    asked = answer_logits(model, rows)
    loss = cross_entropy(asked.logits.float(), asked.ids, reduction="sum")
    return loss.item(), len(asked.ids)


class AnswerLogits(NamedTuple):
    """What a model makes of every token of the answers in a batch, row after row."""

    logits: Float[Tensor, "A V"]
    ids: Int[Tensor, " A"]
    counts: list[int]
    """Tokens of each row's answer; they sum up to A."""


def answer_logits(model: Any, rows: Sequence[Tokens]) -> AnswerLogits:
    """One forward over a batch; nothing is kept of the prompts' logits."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=model.device)
    answered = torch.tensor([[any(a <= at < b for a, b in row.answers) for at in range(1, width)] for row in rows])
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    at = answered.to(model.device)
    return AnswerLogits(logits[:, :-1][at], ids[:, 1:][at], answered.sum(1).tolist())
