"""KL to the base, and relearning: hand-made distributions, and the embedded base against itself and a changed copy."""

import math

import pytest
import torch

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.data.procedural.families import items
from expert_condenser.evaluation.divergence import divergence, kl_to_base
from expert_condenser.evaluation.likelihood import reference_nll, tokens_of
from expert_condenser.evaluation.relearning import relearn

pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


@pytest.fixture
def model():
    return load_model(base_model_path())


@pytest.fixture(scope="module")
def asked():
    made = items("gcd", "test", 6) + items("spell_backward", "test", 4)
    return [[{"role": "user", "content": item.question}] for item in made], [item.answer for item in made]


def test_by_hand():
    """KL((1/2, 1/2) || (1/4, 3/4)) = log(2)/2 + log(2/3)/2; the other way it is another number."""
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log() + 3
    assert divergence(half, quarter).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    assert divergence(quarter, half).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-5)
    assert divergence(half, half + 7).item() == pytest.approx(0, abs=1e-6)


def test_a_model_is_at_no_distance_from_itself_and_a_changed_one_is(model, tokenizer, asked):
    base = load_model(base_model_path())
    assert kl_to_base(model, base, tokenizer, *asked) == 0
    with torch.no_grad():
        model.lm_head.weight *= 1.1
    far = kl_to_base(model.train(), base, tokenizer, *asked, batch_size=3)
    assert far == pytest.approx(kl_to_base(model, base, tokenizer, *asked), rel=1e-5), "batches decide nothing"
    assert 1e-4 < far < 1
    assert (model.training, base.training) == (True, False)


def test_it_is_a_mean_over_all_tokens(model, tokenizer, asked):
    base, both = load_model(base_model_path()), list(zip(*asked, strict=True))
    with torch.no_grad():
        model.lm_head.weight *= 1.1
    parts = [[*zip(*both[:3], strict=True)], [*zip(*both[3:], strict=True)]]
    counts = [sum(sum(b - a for a, b in row.answers) for row in tokens_of(*part, tokenizer)) for part in parts]
    means = [kl_to_base(model, base, tokenizer, *part) for part in parts]
    whole = sum(count * mean for count, mean in zip(counts, means, strict=True)) / sum(counts)
    assert kl_to_base(model, base, tokenizer, *asked) == pytest.approx(whole, rel=1e-5)


def test_what_was_only_out_of_reach_comes_back(model, tokenizer, asked):
    """A scaled head hides what the body knows; some steps on other items of the same kind bring it back."""
    known = reference_nll(model, tokenizer, *asked)
    with torch.no_grad():
        model.lm_head.weight *= 0.3
    before = reference_nll(model, tokenizer, *asked)
    made = items("gcd", "validation", 8) + items("spell_backward", "validation", 8)
    rows = tokens_of(
        [[{"role": "user", "content": item.question}] for item in made], [item.answer for item in made], tokenizer
    )
    weights = model.lm_head.weight.clone()
    relearn(model, rows, steps=6, batch_size=8, learning_rate=1e-3)
    assert not torch.equal(model.lm_head.weight, weights)
    after = reference_nll(model, tokenizer, *asked)
    assert known < after < before - 0.2 * (before - known)


def test_relearning_is_the_same_again_and_depends_on_its_steps(tokenizer, asked):
    rows = tokens_of(*asked, tokenizer)
    heads = []
    for steps in (1, 1, 2):
        model = load_model(base_model_path())
        relearn(model, rows, steps=steps, batch_size=4, learning_rate=1e-3)
        heads.append(model.lm_head.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
