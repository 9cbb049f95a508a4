"""Questions as a model reads them: rendered by the chat template that training used, in batches of similar length."""

import datetime
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from expert_condenser.data.conversation import Message
from expert_condenser.data.rendering import Renderer
from expert_condenser.errors import DataError, EvaluationError

Prompt = Sequence[Message]
"""The turns of a conversation up to the one that is asked for."""


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `EvaluationError` where there is no chat template to ask through."""
    if not tokenizer.chat_template:
        raise EvaluationError(
            "questions are asked through the tokenizer's chat template, and it has none; set chat_template, the one "
            "that training used"
        )


def rendered(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, date: datetime.date | None = None
) -> list[str]:
    """The prompts as text, with the opening of the assistant's turn, as on `date` (today); raises `EvaluationError`."""
    check_template(tokenizer)
    try:
        renderer = Renderer(tokenizer, date)
        return [renderer.text(prompt, opening=True) for prompt in prompts]
    except DataError as error:
        raise EvaluationError(f"a question cannot be asked: {error}") from error


def in_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions in batches of similar length, the longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
