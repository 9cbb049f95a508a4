"""Is it gone, or only out of reach? A few training steps on what the base knew, and its nll before and after.

What comes back in some fifteen steps was not lost: the answers' format was, or the way to them (arXiv 2501.13453).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from expert_condenser.data.tokens import Tokens
from expert_condenser.evaluation.likelihood import answer_logits


def relearn(model: Any, rows: Sequence[Tokens], *, steps: int, batch_size: int, learning_rate: float) -> None:
    """Train the model in place: `steps` of AdamW on the rows, in their order and from the first again after the last.

    The rate is constant, without warm-up and weight decay, and the gradient's norm is clipped at 1. All parameters
    train, in eval mode: no method takes part, and a routing policy stays what it is.
    """
    model.eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for step in range(steps):
        batch = [rows[(step * batch_size + at) % len(rows)] for at in range(batch_size)]
        asked = answer_logits(model, batch)
        cross_entropy(asked.logits.float(), asked.ids).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
