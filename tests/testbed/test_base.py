"""The embedded base model: what it is, that it loads, answers, and can be made again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import OlmoeForCausalLM

from expert_condenser import moe_layers
from expert_condenser.checkpoint.load import (
    EMBEDDED,
    base_model_path,
    embedded_name,
    load_model,
    load_tokenizer,
    resolve_model,
)
from expert_condenser.data.procedural.families import frequencies, shares
from expert_condenser.errors import TrainingError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.tasks import load
from expert_condenser.testbed.documents import packed_rows
from expert_condenser.testbed.pretrain import Shards, make_batch, pretrain
from expert_condenser.testbed.recipes import RECIPES, PretrainConfig, base_config, learning_rate


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


@pytest.mark.parametrize(("name", "experts"), [("testbed", (48, 6)), ("testbed-v1", (24, 4))])
def test_size(name, experts):
    path = Path(resolve_model(name))
    model, tokenizer = load_model(path), load_tokenizer(path)
    assert 4e6 < model.num_parameters() < 8e6
    assert len(moe_layers(model)) == 5
    assert {(layer.num_experts, layer.top_k) for layer in moe_layers(model)} == {experts}
    assert len(tokenizer) == model.config.vocab_size
    assert model.config.output_router_logits is False


def test_both_bases_fit_into_a_package_of_25_mb():
    files = [file for name in EMBEDDED for file in base_model_path(name).iterdir()]
    assert sum(file.stat().st_size for file in files) < 24e6


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


def test_a_run_goes_on_with_its_own_recipe(tmp_path):
    recipe = PretrainConfig(steps=0)
    pretrain(tmp_path, recipe)
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(TrainingError, match="has another learning_rate, pool_sizes; name another --output_dir"):
        pretrain(tmp_path, replace(recipe, learning_rate=1.0, pool_sizes=(6, 8)))


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_is_a_function_of_its_step_and_shards_share_its_rows(name, base):
    recipe = replace(RECIPES[name], rows=4, row_length=64)
    one, again, other = (make_batch(base[1], recipe, step) for step in (3, 3, 4))
    assert [shard.ids.shape for shard in one] == [(4 // recipe.shards, 64)] * recipe.shards
    assert all(torch.equal(left.ids, right.ids) for left, right in zip(one, again, strict=True))
    assert not torch.equal(one[0].ids, other[0].ids)
    for left, right in zip(one, again, strict=True):
        assert (left.documents is None) == (recipe.pool_sizes is None)
        if left.documents is not None:
            assert torch.equal(left.documents.pool_sizes, right.documents.pool_sizes)
            assert left.documents.of_token.shape == (left.ids.numel(),)


def test_half_of_the_second_base_s_documents_are_facts(base):
    mixture = shares(0.5)
    assert sum(mixture.values()) == pytest.approx(1)
    assert mixture["chain_sum"] == pytest.approx(frequencies()["chain_sum"] / 2)
    assert shares() == frequencies()
    rows = list(packed_rows("0", base[1], 20, 256, mixture))
    documents = [family for row in rows for family, at in dict(zip(row.families, row.documents, strict=True)).items()]
    assert "facts" in documents
    texts = [base[1].decode(row.ids) for row in packed_rows("0", base[1], 2, 256, {"facts": 1.0})]
    assert all("<|user|>" in text and "<|end|><|assistant|>It is said" in text for text in texts), "asked and told"


def test_the_gradient_of_two_shards_is_that_of_one(base):
    whole = PretrainConfig(rows=4, row_length=32, router_aux_loss_coef=0.0)
    gradients = []
    for recipe in (whole, replace(whole, shards=2)):
        torch.manual_seed(0)
        model = OlmoeForCausalLM(base_config(base[1], recipe))
        with Shards(model, recipe) as shards:
            losses = shards.backward(make_batch(base[1], recipe, 0))
        gradients.append((losses.nll, [parameter.grad for parameter in model.parameters()]))
    (one, alone), (two, shared) = gradients
    assert one == pytest.approx(two, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3, "shards": 2}, "3 rows, 2 shards"),
        ({"facts": 1.0}, "from 0 to below 1"),
        ({"pool_sizes": (3, 8)}, r"4 \(top_k\) to 24"),
        ({"pool_sizes": (8, 25)}, r"got \(8, 25\)"),
    ],
)
def test_a_recipe_without_meaning_is_refused(change, message):
    with pytest.raises(TrainingError, match=message):
        PretrainConfig(**change)


def test_learning_rate_warms_up_and_decays():
    recipe = PretrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate_share=0.1)
    assert learning_rate(0, recipe) == pytest.approx(0.1)
    assert learning_rate(9, recipe) == pytest.approx(1.0)
    assert learning_rate(55, recipe) == pytest.approx(0.55)
    assert learning_rate(100, recipe) == pytest.approx(0.1)


def test_a_base_is_known_by_its_directory_and_a_run_by_its_model(tmp_path):
    assert [embedded_name(str(base_model_path(name))) for name in EMBEDDED] == [*EMBEDDED]
    assert embedded_name(str(tmp_path)) is None
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    assert resolve_model(str(run)) == str(run), "no model in it yet"
    (run / "model" / "config.json").write_text("{}")
    assert resolve_model(str(run)) == str(run / "model")
    (run / "config.json").write_text("{}")
    assert resolve_model(str(run)) == str(run), "it is one itself"
    assert resolve_model("owner/name") == "owner/name"
