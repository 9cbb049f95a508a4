"""What vLLM gives back, with a stand-in for it."""

import sys
from types import SimpleNamespace

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.evaluation.backends.vllm import VllmBackend
from expert_condenser.evaluation.generation import Answer, Generation


def answering(text):
    """A module like vLLM whose model always answers this."""
    output = SimpleNamespace(text=text, token_ids=[1, 2], finish_reason="length")

    class LLM:
        def __init__(self, **options):
            self.sampling = []

        def generate(self, prompts, sampling, use_tqdm):
            self.sampling += sampling
            return [SimpleNamespace(outputs=[output]) for _ in prompts]

    return SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("7<|user|>8", Answer("78", 2, False, "7<|user|>8")), ("78", Answer("78", 2, False, None))],
)
def test_special_tokens_are_asked_for_and_kept_apart(monkeypatch, text, answer):
    monkeypatch.setitem(sys.modules, "vllm", answering(text))
    backend = VllmBackend("model", load_tokenizer(base_model_path()))
    assert backend.generate(["<|user|>hi<|end|>"], 8, Generation(), 0) == [answer]
    assert backend.model.sampling[0].skip_special_tokens is False
