"""Questions as a model reads them: rendered by the chat template that training used, in batches of similar length."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from expert_condenser.data.conversation import Conversation, Message
from expert_condenser.data.rendering import Renderer
from expert_condenser.errors import DataError, EvaluationError

Prompt = Sequence[Message]
"""The turns of a conversation up to the one that is asked for."""


class Continuation(NamedTuple):
    """A rendered text and what comes after it."""

    context: str
    text: str


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `EvaluationError` where there is no chat template to ask through."""
    if not tokenizer.chat_template:
        raise EvaluationError(
            "questions are asked through the tokenizer's chat template, and it has none; set chat_template, the one "
            "that training used"
        )


def rendered(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompts as text, with the opening of the assistant's turn; raises `EvaluationError`."""
    check_template(tokenizer)
    try:
        renderer = Renderer(tokenizer)
        return [renderer.text(prompt, opening=True) for prompt in prompts]
    except DataError as error:
        raise EvaluationError(f"a question cannot be asked: {error}") from error


def continued(prompt: Prompt, answer: str, tokenizer: PreTrainedTokenizerBase) -> Continuation:
    """An answer where training's rendering of the conversation puts it, after all that the template writes before it.

    Raises `EvaluationError` where the template changes the answer.
    """
    check_template(tokenizer)
    row = Conversation((*prompt, {"role": "assistant", "content": answer}), (*(False for _ in prompt), True))
    try:
        shown, answered = Renderer(tokenizer, loss_on="last").passages(row)[0].pieces
    except DataError as error:
        raise EvaluationError(f"an option cannot be scored: {error}") from error
    start = answered.find(answer)
    if start < 0:
        raise EvaluationError(
            f"the chat template must render an answer as it is; got {answered[:60]!r} for {answer[:60]!r}; set another"
        )
    return Continuation(shown + answered[:start], answer)


def in_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions in batches of similar length, the longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
