"""Greedy generation in batches of similar length, through the chat template that training used."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import DataError


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> list[str]:
    """The model's answer to every question, in their order, special tokens removed.

    Prompts are sorted by length, padded on the left, and decoded with a KV cache. The model is put into
    eval mode and left in the mode that it was in. Raises `DataError` without a chat template.
    """
    if not tokenizer.chat_template:
        raise DataError("questions are asked through the tokenizer's chat template, and it has none; set chat_template")
    turns = [[{"role": "user", "content": question}] for question in questions]
    prompts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _generate_batch(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
    model.train(training)
    return answers


def _generate_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    # A model trained with the auxiliary loss asks for router logits, which a step with a KV cache cannot weigh.
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=True,
        **options,
    )
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
