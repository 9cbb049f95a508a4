"""How far a tuned model is from its base on a task: KL(base || tuned) per token of the reference answers.

Forgetting follows this number across learning rates and methods (arXiv 2509.04259), so a method whose forgetting it
explains is another learning rate.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from expert_condenser.evaluation.likelihood import answer_logits, tokens_of
from expert_condenser.evaluation.prompts import Prompt, in_batches


@torch.no_grad()
def kl_to_base(
    model: Any,
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    references: Sequence[str],
    *,
    batch_size: int = 64,
) -> float:
    """Mean over all tokens of the references, with the end of the turn, of KL(base || tuned) in nats.

    Both models are in eval mode meanwhile, and left in the mode that they were in.
    """
    rows = tokens_of(prompts, references, tokenizer)
    modes = [(each, each.training) for each in (model, base)]
    model.eval()
    base.eval()
    total, count = 0.0, 0
    for batch in in_batches([len(row.ids) for row in rows], batch_size):
        own, known = (answer_logits(each, [rows[index] for index in batch]).logits for each in (model, base))
        total, count = total + float(divergence(known, own).sum(dtype=torch.float64)), count + own.shape[0]
    for each, mode in modes:
        each.train(mode)
    return total / count


def divergence(base: Float[Tensor, "A V"], tuned: Float[Tensor, "A V"]) -> Float[Tensor, " A"]:
    """KL(base || tuned) = sum_v p(v) (log p(v) - log q(v)), from the logits of p and q."""
    log_p, log_q = base.float().log_softmax(-1), tuned.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
