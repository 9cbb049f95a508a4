"""Generation by vLLM, where it is installed; untested here, for it needs an installation of its own."""

from typing import Any

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.generate import Answer, Generation


class VllmBackend:
    """A model directory served by vLLM in this process.

    A result of this package loads through the code file in its directory, so vLLM runs that file: it imports
    `expert_condenser` and nothing else.
    """

    def __init__(self, path: str, dtype: str) -> None:
        try:
            import vllm
        except ImportError as error:
            raise EvaluationError("--backend vllm needs vLLM: pip install vllm, or leave --backend out") from error
        import expert_condenser

        self.vllm, self.package = vllm, expert_condenser
        self.model: Any = vllm.LLM(model=path, dtype=dtype, model_impl="transformers")

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """One batch; special tokens are in the rendered prompts already."""
        sampling = self.vllm.SamplingParams(
            temperature=generation.temperature, top_p=generation.top_p, max_tokens=max_new_tokens, seed=seed
        )
        outputs = [output.outputs[0] for output in self.model.generate(prompts, sampling, use_tqdm=False)]
        return [Answer(output.text, len(output.token_ids), output.finish_reason == "stop") for output in outputs]
