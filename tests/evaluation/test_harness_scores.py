"""lm-eval's rules for GSM8K, on answers made by hand."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import pytest

from expert_condenser.evaluation import harness_scores as module
from expert_condenser.evaluation.harness_scores import harness_scores
from tests.evaluation.test_record import record


def answer(output, gold="24"):
    return replace(record(0, correct=True, gold=gold), output=output)


@pytest.mark.parametrize(
    ("output", "gold", "strict", "flexible"),
    [
        ("6 * 4 = 24\n#### 24", "24", 1, 1),
        ("The answer is 24.", "24", 0, 1),
        ("#### 24 pens in 4 boxes", "24", 1, 0),
        ("#### 1,240", "1240", 1, 1),
        ("#### $24", "24", 0, 1),
        ("\\boxed{24}", "24", 0, 1),
        ("\\boxed{24} in 4 boxes", "24", 0, 0),
        ("#### 25", "24", 0, 0),
        ("#### 24\n\nQuestion: and 3 more?\n#### 27", "24", 1, 1),
        ("", "24", 0, 0),
    ],
)
def test_by_both_filters(output, gold, strict, flexible):
    pytest.importorskip("lm_eval")
    found = harness_scores("gsm8k", [answer(output, gold)])
    assert found == {"version": version("lm_eval"), "strict-match": strict, "flexible-extract": flexible}


def test_the_share_over_all_answers():
    pytest.importorskip("lm_eval")
    found = harness_scores("gsm8k", [answer("#### 24"), answer("24"), answer("25")])
    assert (found["strict-match"], found["flexible-extract"]) == pytest.approx((1 / 3, 2 / 3))


def test_where_there_is_no_such_task_or_no_lm_eval(monkeypatch):
    assert harness_scores("svamp", [answer("#### 24")]) is None
    assert harness_scores("gsm8k", []) is None
    module._config.cache_clear()

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert harness_scores("gsm8k", [answer("#### 24")]) is None
    module._config.cache_clear()
