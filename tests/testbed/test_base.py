"""The embedded base model: what it is, that it loads, answers, and can be made again."""

import json
from dataclasses import replace

import pytest
import torch

from expert_condenser import moe_layers
from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.tasks import load
from expert_condenser.testbed.pretrain import pretrain
from expert_condenser.testbed.recipes import RECIPES, PretrainConfig, learning_rate


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


def test_size(base):
    model, tokenizer = base
    assert 4e6 < model.num_parameters() < 12e6
    assert len(moe_layers(model)) == 5
    assert {(layer.num_experts, layer.top_k) for layer in moe_layers(model)} == {(24, 4)}
    assert sum(file.stat().st_size for file in base_model_path().iterdir()) < 20e6
    assert len(tokenizer) == model.config.vocab_size
    assert model.config.output_router_logits is False


def test_tokenizer_has_one_token_per_digit_and_loses_nothing(base):
    tokenizer = base[1]
    assert [tokenizer.decode(i) for i in tokenizer.encode("1234")] == list("1234")
    text = "naïve — 12 + 3.5 = 15,5?\n\t{x}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_prompt_is_a_prefix_of_the_conversation(base):
    tokenizer = base[1]
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == f"{prompt}4<|end|>"


def test_it_learnt_what_it_was_pretrained_on(base, tmp_path):
    tasks = [load(name, limit=20) for name in ("testbed:word_problems", "testbed:aiw")]
    backend = LocalBackend(base_model_path(), base[1], model=base[0])
    found = evaluate(backend, base[1], tasks, tmp_path, Generation())
    assert all(task["accuracy"] >= 0.9 for task in found["tasks"].values())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_pretraining_goes_on_where_it_was_killed(tmp_path, recipe):
    sizes = {"rows": 2, "row_length": 32, "warmup_steps": 1, "checkpoint_every": 1, "log_every": 1}
    killed = replace(RECIPES[recipe], steps=3, **sizes)
    pretrain(tmp_path / "whole", killed)
    original = torch.optim.AdamW.step
    calls = []

    def dying_step(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying_step)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tmp_path / "killed", killed)
    assert not (tmp_path / "killed" / "base").exists()
    moves = []
    pretrain(tmp_path / "killed", killed, moves.append)
    assert moves == [2, 1], "two steps were done before, one now"
    whole, resumed = (load_model(tmp_path / name / "base").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    log = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert log == [1, 2, 3]


def test_learning_rate_warms_up_and_decays():
    recipe = PretrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate_share=0.1)
    assert learning_rate(0, recipe) == pytest.approx(0.1)
    assert learning_rate(9, recipe) == pytest.approx(1.0)
    assert learning_rate(55, recipe) == pytest.approx(0.55)
    assert learning_rate(100, recipe) == pytest.approx(0.1)
