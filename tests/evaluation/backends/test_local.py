import pytest
import torch

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.answers import final_answer
from expert_condenser.evaluation.backends import local
from expert_condenser.evaluation.backends.base import Backend
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.prompts import in_batches, rendered

QUESTIONS = [
    "Ada has 4 pens. Ben gives Ada 3 more. Then Ada loses 2 pens. How many pens does Ada have now?",
    "Spell this word backward (example: sun -> nus): cat",
    "Find the Greatest Common Divisor (GCD) of these numbers: 12, 18. Give only the GCD as your final answer.",
]
SAMPLED = Generation(temperature=3.0)


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


def turns(questions):
    return [[{"role": "user", "content": question}] for question in questions]


def answers(base, questions, length=24, generation=None, seed=0):
    prompts = rendered(turns(questions), base[1])
    backend = LocalBackend("base", base[1], model=base[0])
    return backend.generate(prompts, length, generation or Generation(), seed)


def one_by_one(model, tokenizer, question, length):
    """Greedy decoding written out: no batch, no padding, no cache."""
    ids = tokenizer.apply_chat_template(turns([question])[0], add_generation_prompt=True, return_dict=False)
    start = len(ids)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_batched_generation_equals_one_by_one(base):
    expected = [one_by_one(*base, question, 24) for question in QUESTIONS]
    assert [answer.text for answer in answers(base, QUESTIONS)] == expected
    assert final_answer(expected[0]) == "5"
    assert [answer.text for answer in answers(base, QUESTIONS[::-1])] == expected[::-1]


def test_weights_are_loaded_when_they_are_first_needed(base, monkeypatch):
    loaded = []
    monkeypatch.setattr(local, "load_model", lambda *asked: loaded.append(asked) or base[0])
    backend = LocalBackend(base_model_path(), base[1], dtype="float32", device="cpu")
    assert isinstance(backend, Backend)
    assert (backend.identity["backend"], loaded) == ("transformers", [])
    prompts = rendered(turns(QUESTIONS), base[1])
    assert backend.generate(prompts, 3, Generation(), 0) == answers(base, QUESTIONS, length=3)
    assert backend.nll(turns(QUESTIONS[:1]), ["5"], 1) > 0
    assert loaded == [(base_model_path(), "float32")]


def test_tokens_are_counted_and_the_cut_is_seen(base):
    whole, cut = answers(base, QUESTIONS[:1])[0], answers(base, QUESTIONS[:1], length=3)[0]
    assert whole.ended
    assert whole.tokens == len(base[1](whole.text, add_special_tokens=False)["input_ids"])
    assert (cut.ended, cut.tokens) == (False, 3)
    assert whole.text.startswith(cut.text)


def test_sampling_repeats_with_its_seed_and_differs_without(base):
    first, again, other = (answers(base, QUESTIONS, generation=SAMPLED, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_mode_of_the_model_is_kept(base):
    for training in (True, False):
        base[0].train(training)
        answers(base, QUESTIONS[:1], length=1)
        assert base[0].training is training


def test_decoding_is_not_that_of_the_models_own_generation_config(base, monkeypatch):
    expected = answers(base, QUESTIONS)
    monkeypatch.setattr(base[0].generation_config, "repetition_penalty", 1.8)
    monkeypatch.setattr(base[0].generation_config, "do_sample", True)
    assert answers(base, QUESTIONS) == expected
    assert [a.text for a in expected] != [unlike(base, question) for question in QUESTIONS]


def unlike(base, question):
    """What `generate` alone says, with the model's own generation_config."""
    ids = base[1].apply_chat_template(
        turns([question])[0], add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    output = base[0].generate(ids, max_new_tokens=24, do_sample=False)
    return base[1].decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_model_trained_with_the_auxiliary_loss_generates(base):
    model = base[0]
    model.config.output_router_logits = True
    try:
        assert answers(base, QUESTIONS[:2], length=4)
    finally:
        model.config.output_router_logits = False


def test_no_chat_template():
    tokenizer = load_tokenizer(base_model_path())
    tokenizer.chat_template = None
    with pytest.raises(EvaluationError, match="chat template"):
        rendered(turns(QUESTIONS), tokenizer)


def test_batches_hold_similar_lengths_the_longest_first():
    assert in_batches([3, 9, 1, 8, 2], 2) == [[1, 3], [0, 4], [2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 1 or more; got 0"),
        ({"samples": 2}, "greedy decoding gives one answer"),
        ({"top_p": 0.9}, "greedy decoding gives one answer"),
        ({"temperature": -1.0}, "temperature is 0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p in \(0, 1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens is 1 or more"),
    ],
)
def test_options_without_a_meaning(options, message):
    with pytest.raises(EvaluationError, match=message):
        Generation(**options)


@pytest.mark.parametrize(("text", "answer"), [("4+3=7\n#### 7", "7"), ("#### 1 #### 2 ", "2"), (" Yes ", "Yes")])
def test_final_answer(text, answer):
    assert final_answer(text) == answer


def test_the_raw_text_has_the_special_tokens_that_the_answer_lacks(base):
    backend = LocalBackend(base_model_path(), base[1], model=base[0])
    ids = base[1]("7<|user|>8<|end|>9", add_special_tokens=False)["input_ids"]
    answer = backend._answer(ids)
    assert (answer.text, answer.raw, answer.ended) == ("78", "7<|user|>8", True)
    assert backend._answer(ids[:1]) == Answer("7", 1, False, None)
