import pytest
import torch

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.data.procedural.families import items
from expert_condenser.evaluation.likelihood import reference_nll


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


def written_out(model, tokenizer, prompt, reference):
    """Sum and number of the nll of a reference's tokens: one row, no padding."""
    opening = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    turns = [*prompt, {"role": "assistant", "content": reference}]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([whole])).logits[0], dim=-1)
    nll = [-log_p[at - 1, whole[at]].item() for at in range(len(opening), len(whole))]
    return sum(nll), len(nll)


def test_it_is_the_mean_over_the_tokens_of_the_references(base):
    asked = items("word_problems", "test", 3) + items("gcd", "test", 2)
    prompts = [[{"role": "user", "content": item.question}] for item in asked]
    references = [item.answer for item in asked]
    sums = [written_out(*base, prompt, reference) for prompt, reference in zip(prompts, references, strict=True)]
    expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
    for batch_size in (1, 2, 32):
        found = reference_nll(*base, prompts, references, batch_size=batch_size)
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_wrong_reference_is_less_likely(base):
    prompt = [[{"role": "user", "content": items("aiw", "test", 1)[0].question}]]
    answer = items("aiw", "test", 1)[0].answer
    assert reference_nll(*base, prompt, [answer]) + 1 < reference_nll(*base, prompt, [f"{int(answer) + 1}"])
