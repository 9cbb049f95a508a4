"""Teacher-forced exact match: the same as greedy generation's, and the nll that `reference_nll` gives."""

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.data.procedural.families import items
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.likelihood import reference_nll
from expert_condenser.evaluation.prompts import rendered
from expert_condenser.evaluation.teacher_forced import teacher_forced

pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


@pytest.fixture(scope="module")
def questions():
    made = [
        item for name in ("spell_backward", "gcd", "letter_counting", "products") for item in items(name, "test", 8)
    ]
    return [[{"role": "user", "content": item.question}] for item in made], [item.answer for item in made]


@pytest.fixture(scope="module")
def greedy(base, questions):
    backend = LocalBackend(base_model_path(), base[1], model=base[0])
    answers = backend.generate(rendered(questions[0], base[1]), 24, Generation(), 0)
    return [answer.text for answer in answers]


def test_exact_is_what_greedy_generation_writes(base, questions, greedy):
    prompts, references = questions
    found = teacher_forced(*base, prompts, references, batch_size=5)
    assert found.exact == [text == reference for text, reference in zip(greedy, references, strict=True)]
    assert 0.2 < found.accuracy < 0.8, "both kinds are among them"


def test_what_greedy_wrote_is_exact_and_a_longer_or_shorter_reference_is_not(base, questions, greedy):
    prompts = questions[0]
    assert all(teacher_forced(*base, prompts, greedy).exact)
    assert not any(teacher_forced(*base, prompts, [f"{text}7" for text in greedy]).exact), "the end counts"
    assert not any(teacher_forced(*base, prompts, [text[:-1] for text in greedy]).exact)


def test_the_nll_is_that_of_the_likelihood_module(base, questions):
    model, tokenizer = base
    found = teacher_forced(model.train(), tokenizer, *questions)
    assert model.training
    assert found.nll_per_token == pytest.approx(reference_nll(model, tokenizer, *questions), rel=1e-5)
    assert found.tokens[0] == len(tokenizer.encode(questions[1][0])) + 1, "with the end of the turn"
    model.eval()
