"""A transformers model in this process: generation in batches with left padding and a KV cache, and nll."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from expert_condenser.checkpoint.load import load_model
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.identity import identity_of
from expert_condenser.evaluation.likelihood import batch_nlls, reference_nll
from expert_condenser.evaluation.option_likelihood import log_likelihoods
from expert_condenser.evaluation.prompts import Continuation, Prompt
from expert_condenser.evaluation.teacher_forced import TeacherForced, teacher_forced


class LocalBackend:
    """The model of a directory or hub name, loaded when it is first asked; or one that is loaded already.

    `device` None is the accelerator where there is one. A `model` that is given stays where it is and as it is; `name`
    is then the directory that it was loaded from, or any other text if it was changed since.
    """

    def __init__(
        self,
        name: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str = "float32",
        device: str | None = None,
        model: Any = None,
    ) -> None:
        if model is not None:
            dtype = str(model.dtype).removeprefix("torch.")
            self.model = model
        self.name, self.tokenizer, self.dtype, self.device = name, tokenizer, dtype, device
        self.identity = identity_of(name, backend="transformers", dtype=dtype)

    @cached_property
    def model(self) -> Any:
        """The model, with every weight of it."""
        device = self.device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        return load_model(self.name, self.dtype).to(device)

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's and the model's own."""
        own = self.model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [own]
        return sorted({end for end in (self.tokenizer.eos_token_id, *ends) if end is not None})

    @property
    def pad(self) -> int:
        """The token on the left of shorter prompts; the mask leaves it out."""
        pad: int | None = self.tokenizer.pad_token_id
        return pad if pad is not None else self.ends[0]

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

    def nll(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> float | None:
        """As `reference_nll`."""
        return reference_nll(self.model, self.tokenizer, prompts, references, batch_size=batch_size)

    def batch_nlls(
        self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int, part: int, parts: int
    ) -> list[tuple[float, int]]:
        """As `batch_nlls` of `likelihood`."""
        options = {"batch_size": batch_size, "part": part, "parts": parts}
        return batch_nlls(self.model, self.tokenizer, prompts, references, **options)

    def log_likelihoods(self, pairs: Sequence[Continuation], batch_size: int) -> list[float]:
        """As `log_likelihoods` of `option_likelihood`."""
        return log_likelihoods(self.model, self.tokenizer, pairs, batch_size=batch_size)

    def teacher_forced(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> TeacherForced:
        """As `teacher_forced` of the module of that name."""
        return teacher_forced(self.model, self.tokenizer, prompts, references, batch_size=batch_size)

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
        text, raw = (self.tokenizer.decode(kept, skip_special_tokens=skip) for skip in (True, False))
        return Answer(text, len(kept), end is not None, None if raw == text else raw)
