"""Chat templates: what is trained must be what the template shows."""

import re

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.formats import Message
from expert_condenser.data.tokens import render, shared_length
from expert_condenser.errors import DataError


def check_template(prompt: list[Message], completion: list[Message], tokenizer: PreTrainedTokenizerBase) -> None:
    """The completion's loss starts where the rendered prompt ends, and covers all of the completion."""
    try:
        opening = render(prompt, tokenizer, tokenize=False, add_generation_prompt=True)
        whole = render(prompt + completion, tokenizer, tokenize=False)
    except TemplateError as error:
        raise DataError(f"the chat template must render every turn of the data, but it fails: {error}") from error
    if not whole.startswith(opening):
        shared = shared_length(opening, whole)
        raise DataError(
            "the rendered prompt must be a prefix of the rendered conversation, but the chat template rewrites the "
            f"prompt from character {shared} on ({opening[shared:][:40]!r} against {whole[shared:][:40]!r}), so the "
            "answer-only loss would be wrong; set a chat template that renders the prompt the same way in both"
        )
    parts = re.split(r"</?think>", completion[0]["content"])
    dropped = next((part for part in map(str.strip, parts) if part not in whole[len(opening) :]), None)
    if dropped is not None:
        raise DataError(
            f"the chat template must render the whole completion, but it drops {dropped[:60]!r}, which would not be "
            "trained; set a chat template that keeps it"
        )
