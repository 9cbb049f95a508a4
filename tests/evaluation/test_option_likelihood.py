"""log p of given texts: lm-eval's, and what a model written by hand must give."""

from math import log
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.option_likelihood import log_likelihoods
from expert_condenser.evaluation.prompts import Continuation, continued

TURNS = [{"role": "user", "content": "Which is larger?\n\nSolution1: 3\n\nSolution2: 17 pens"}]
TEXTS = ["3", "17 pens", "the correct answer is solution1", "no"]


@pytest.fixture(scope="module")
def base():
    return load_model(base_model_path()), load_tokenizer(base_model_path())


def test_it_is_that_of_lm_eval(base):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    pairs = [continued(TURNS, text, base[1]) for text in TEXTS]
    harness = HFLM(pretrained=base[0], tokenizer=base[1], batch_size=2)
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=index, metadata=("t", index, 1))
        for index, pair in enumerate(pairs)
    ]
    expected = [log_p for log_p, _ in harness.loglikelihood(asked, disable_tqdm=True)]
    for batch_size in (1, 3, 32):
        assert log_likelihoods(*base, pairs, batch_size=batch_size) == pytest.approx(expected, abs=1e-4)
    assert len({round(log_p, 2) for log_p in expected}) == len(TEXTS)


def test_the_mode_of_the_model_is_kept(base):
    for training in (True, False):
        base[0].train(training)
        log_likelihoods(*base, [Continuation("a", "b")])
        assert base[0].training is training


class Letters(PreTrainedTokenizerBase):
    """A tokenizer with a token per letter."""

    def __init__(self):
        pass

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}


class Counter:
    """A model that gives the next letter of the alphabet three quarters, and the other three letters the rest."""

    training, device, config = False, torch.device("cpu"), SimpleNamespace()

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.training = False

    def __call__(self, input_ids, attention_mask, use_cache):
        logits = torch.full((*input_ids.shape, 4), log(1 / 12))
        following = ((input_ids + 1) % 4)[..., None]
        return SimpleNamespace(logits=logits.scatter(-1, following, log(3 / 4)))


@pytest.mark.parametrize(
    ("context", "text", "following", "others"),
    [("a", "b", 1, 0), ("a", "bcd", 3, 0), ("a", "c", 0, 1), ("abc", "dad", 2, 1), ("ab", "", 0, 0), ("", "ab", 1, 0)],
)
def test_a_model_whose_answer_is_known(context, text, following, others):
    expected = following * log(3 / 4) + others * log(1 / 12)
    pairs = [Continuation("abca", "d"), Continuation(context, text)]
    assert log_likelihoods(Counter(), Letters(), pairs)[1] == pytest.approx(expected)


def tokenizer(template):
    changed = load_tokenizer(base_model_path())
    changed.chat_template = template
    return changed


USER = "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}{% else %}"
OPENING = "{% endif %}{% endfor %}{% if add_generation_prompt %}"


def test_an_answer_stands_where_training_puts_it():
    plain = tokenizer(f"{USER}A{{{{ m.content }}}}E{OPENING}A{{% endif %}}")
    assert continued([{"role": "user", "content": "x b"}], "b", plain) == ("Ux bA", "b")
    thinking = tokenizer(f"{USER}A<think>\n\n</think>\n\n{{{{ m.content }}}}E{OPENING}A<think>\n{{% endif %}}")
    assert continued([{"role": "user", "content": "b"}], "b", thinking) == ("UbA<think>\n\n</think>\n\n", "b")


def test_a_template_that_changes_the_answer_is_refused():
    loud = tokenizer(f"{USER}A{{{{ m.content | upper }}}}E{OPENING}A{{% endif %}}")
    with pytest.raises(EvaluationError, match=r"an option cannot be scored: .* it drops 'b'"):
        continued([{"role": "user", "content": "b"}], "b", loud)
