import pytest
import torch

from expert_condenser.checkpoint import load_model, load_tokenizer
from expert_condenser.errors import DataError
from expert_condenser.evaluation.generate import generate
from expert_condenser.evaluation.testbed import Record, accuracies, as_results, final_answer
from expert_condenser.testbed import base_model_path

QUESTIONS = [
    "Ada has 4 pens. Ben gives Ada 3 more. Then Ada loses 2 pens. How many pens does Ada have now?",
    "Spell this word backward (example: sun -> nus): cat",
    "Find the Greatest Common Divisor (GCD) of these numbers: 12, 18. Give only the GCD as your final answer.",
]


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


def one_by_one(model, tokenizer, question, length):
    """Greedy decoding written out: no batch, no padding, no cache."""
    turns = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    start = len(ids)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_batched_generation_equals_one_by_one(base):
    expected = [one_by_one(*base, question, 24) for question in QUESTIONS]
    assert generate(*base, QUESTIONS, max_new_tokens=24, batch_size=2) == expected
    assert final_answer(expected[0]) == "5"
    assert generate(*base, QUESTIONS[::-1], max_new_tokens=24) == expected[::-1]


def test_the_mode_of_the_model_is_kept(base):
    model, tokenizer = base
    model.train()
    generate(model, tokenizer, QUESTIONS[:1], max_new_tokens=1)
    assert model.training
    model.eval()
    generate(model, tokenizer, QUESTIONS[:1], max_new_tokens=1)
    assert not model.training


def test_a_model_trained_with_the_auxiliary_loss_generates(base):
    model, tokenizer = base
    model.config.output_router_logits = True
    try:
        assert generate(model, tokenizer, QUESTIONS[:2], max_new_tokens=4)
    finally:
        model.config.output_router_logits = False


def test_no_chat_template(base):
    tokenizer = load_tokenizer(base_model_path())
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        generate(base[0], tokenizer, QUESTIONS)


@pytest.mark.parametrize(("text", "answer"), [("4+3=7\n#### 7", "7"), ("#### 1 #### 2 ", "2"), (" Yes ", "Yes")])
def test_final_answer(text, answer):
    assert final_answer(text) == answer


def test_accuracies_and_results():
    records = [Record("a", "q", "1", out, out == "1") for out in ("1", "2", "1", "1")] + [
        Record("b", "q", "x", "y", False)
    ]
    assert accuracies(records) == {"a": 0.75, "b": 0.0}
    assert len(as_results(records)["items"]) == 5
