"""Generation by vLLM, where it is installed; untested here, for it needs an installation of its own."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.identity import identity_of
from expert_condenser.evaluation.prompts import Prompt


class VllmBackend:
    """A model directory served by vLLM in this process. Raises `EvaluationError` where there is no vLLM.

    A result of this package loads through the code file in its directory, so vLLM runs that file: it imports
    `expert_condenser` and nothing else.
    """

    def __init__(self, path: str, tokenizer: PreTrainedTokenizerBase, *, dtype: str = "float32") -> None:
        try:
            import vllm
        except ImportError as error:
            raise EvaluationError("--backend vllm needs vLLM: pip install vllm, or leave --backend out") from error
        from expert_condenser.moe import own_types  # vLLM loads our types where they are registered

        self.vllm, self.own_types = vllm, own_types
        self.path, self.tokenizer, self.dtype = path, tokenizer, dtype
        self.identity = identity_of(path, backend="vllm", dtype=dtype)

    @cached_property
    def model(self) -> Any:
        """vLLM's engine with the model."""
        return self.vllm.LLM(model=self.path, dtype=self.dtype, model_impl="transformers")

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """One batch, every answer with a seed of its own; the rendered prompts have their special tokens already."""
        rows = [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        sampling = [
            self.vllm.SamplingParams(
                temperature=generation.temperature,
                top_p=generation.top_p,
                max_tokens=max_new_tokens,
                seed=1_000_003 * seed + position,
                skip_special_tokens=False,
            )
            for position in range(len(rows))
        ]
        asked = [{"prompt_token_ids": row} for row in rows]
        outputs = [output.outputs[0] for output in self.model.generate(asked, sampling, use_tqdm=False)]
        return [self._answer(output) for output in outputs]

    def _answer(self, output: Any) -> Answer:
        """vLLM leaves out the token that ended the answer."""
        text = output.text
        for token in self.tokenizer.added_tokens_decoder.values():
            text = text.replace(token.content, "") if token.special else text
        raw = None if text == output.text else output.text
        return Answer(text, len(output.token_ids), output.finish_reason == "stop", raw)

    def nll(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> float | None:
        """None: it is not asked for log-probabilities of given texts here."""
        return None
