"""Generation in batches of similar length, through the chat template that training used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

from expert_condenser.data.formats import Message
from expert_condenser.data.tokens import render
from expert_condenser.errors import EvaluationError

Prompt = Sequence[Message]
"""The turns of a conversation up to the one that is asked for."""


@dataclass(frozen=True)
class Generation:
    """How answers are decoded: greedy by default, or `samples` answers to each question at a temperature."""

    batch_size: int = 64
    max_new_tokens: int | None = None
    """None: as many as the task's answers need."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `EvaluationError` where an option has no meaning."""
        for name in ("batch_size", "samples", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"{name} is 1 or more; got {value}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise EvaluationError(
                f"temperature is 0 (greedy) or more and top_p in (0, 1]; got {self.temperature} and {self.top_p}"
            )
        if self.temperature == 0 and (self.samples > 1 or self.top_p < 1):
            raise EvaluationError(
                f"greedy decoding gives one answer, so samples = {self.samples} and top_p = {self.top_p} have no "
                "effect; set a temperature above 0"
            )


@dataclass(frozen=True)
class Answer:
    """A generated text without special tokens, its number of tokens, and whether the model ended it."""

    text: str
    tokens: int
    ended: bool


@runtime_checkable
class Backend(Protocol):
    """What generates: a loaded model here, or vLLM."""

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """One answer to every rendered prompt, in their order; `seed` decides all that is random."""


class ModelBackend:
    """A loaded transformers model, with left padding and a KV cache."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        own = model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        self.ends = sorted({end for end in (tokenizer.eos_token_id, *ends) if end is not None})
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else self.ends[0]

    @torch.no_grad()
    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """One batch, in eval mode; the model is left in the mode that it was in."""
        rows = [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        width, device = max(map(len, rows)), self.model.device
        ids = torch.tensor([[self.pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        training, own = self.model.training, self.model.generation_config
        self.model.eval()
        torch.manual_seed(seed)
        try:
            # `generate` fills in what is not set from the model's own: a repetition penalty would be one.
            self.model.generation_config = self._config(max_new_tokens, generation)
            output = self.model.generate(input_ids=ids, attention_mask=mask, **self._quiet())
        finally:
            self.model.generation_config = own
            self.model.train(training)
        return [self._answer(row.tolist()) for row in output[:, width:]]

    def _config(self, max_new_tokens: int, generation: Generation) -> GenerationConfig:
        """All that decides decoding."""
        sampling = {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            pad_token_id=self.pad,
            eos_token_id=self.ends,
            use_cache=True,
            do_sample=generation.temperature > 0,
            **(sampling if generation.temperature > 0 else {}),
        )

    def _quiet(self) -> dict[str, bool]:
        """A model trained with the auxiliary loss asks for router logits, which a step with a KV cache cannot weigh."""
        return {"output_router_logits": False} if hasattr(self.model.config, "output_router_logits") else {}

    def _answer(self, row: list[int]) -> Answer:
        end = next((index for index, token in enumerate(row) if token in self.ends), None)
        kept = row if end is None else row[:end]
        return Answer(self.tokenizer.decode(kept, skip_special_tokens=True), len(kept), end is not None)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `EvaluationError` where there is no chat template to ask through."""
    if not tokenizer.chat_template:
        raise EvaluationError(
            "questions are asked through the tokenizer's chat template, and it has none; set chat_template, the one "
            "that training used"
        )


def rendered(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompts as text, with the opening of the assistant's turn. Raises as `check_template`."""
    check_template(tokenizer)
    try:
        return [render(list(prompt), tokenizer, tokenize=False, add_generation_prompt=True) for prompt in prompts]
    except TemplateError as error:
        raise EvaluationError(f"the chat template must render every question, but it fails: {error}") from error


def in_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions in batches of similar length, the longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
