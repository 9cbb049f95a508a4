"""The terms of an evaluation: fingerprints per task, and `eval.json` of today and of before 0.2."""

import json
from dataclasses import replace

import pytest

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.settings import logger, settings_of, start_or_go_on
from tests.evaluation.test_evaluate import Counting, run, task, tokenizer

__all__ = ["tokenizer"]
TASKS = [task("sums", 5), task("words", 3)]
OLD = {
    "model": "fake",
    "prompts": "3d57fc38c25fac2f",
    "generation": {
        **{"batch_size": 2, "max_new_tokens": None, "samples": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0},
        **{"backend": "counting", "dtype": "float32"},
    },
    "questions": {"sums": "62d688b4297e78c0", "words": "e542b752e7bedaa9"},
    "weights": "0123456789abcdef",
}
"""What version 0.1 wrote for `TASKS`."""


def settings(tokenizer, tasks=TASKS, backend=None, **generation):
    return settings_of(backend or Counting(), tokenizer, tasks, Generation(**{"batch_size": 2, **generation}))


def test_what_they_say(tokenizer):
    found = settings(tokenizer)
    assert (found["format_version"], found["model"], found["weights"]) == (2, "fake", "w")
    assert found["generation"] == OLD["generation"]
    assert found["prompts"] == OLD["prompts"]
    assert {name: own["questions"] for name, own in found["tasks"].items()} == OLD["questions"]


def test_a_task_has_the_same_fingerprints_whatever_stands_beside_it(tokenizer):
    both, one = settings(tokenizer), settings(tokenizer, TASKS[:1])
    assert one["tasks"]["sums"] == both["tasks"]["sums"]
    assert one["prompts"] != both["prompts"]
    assert both["tasks"]["sums"]["prompts"] != both["tasks"]["words"]["prompts"]  # they have other limits


def test_what_decides_the_prompts_of_a_task(tokenizer):
    def prompts(**generation):
        return settings(tokenizer, **generation)["tasks"]["sums"]["prompts"]

    before = prompts()
    assert prompts(batch_size=7) == before
    assert prompts(max_new_tokens=4) == before  # as many as the task takes by itself
    changes = [{"max_new_tokens": 5}, {"temperature": 1.0}, {"seed": 1}, {"temperature": 1.0, "samples": 2}]
    assert len({before, *(prompts(**change) for change in changes)}) == 5


def test_other_questions_have_another_fingerprint(tokenizer):
    before, after = (settings(tokenizer, [task("sums", count)])["tasks"]["sums"] for count in (5, 4))
    assert before["questions"] != after["questions"]
    assert before["prompts"] == after["prompts"]


def write(folder, **changes):
    folder.mkdir()
    (folder / "eval.json").write_text(json.dumps({**OLD, **changes}))


DECODING = {key: value for key, value in OLD["generation"].items() if key not in ("backend", "dtype")}


@pytest.mark.parametrize("changes", [{}, {"generation": DECODING, "model": "sft learning_rate=1"}])
def test_an_evaluation_of_before_goes_on_with_a_note(tokenizer, tmp_path, monkeypatch, changes):
    """That of `condenser eval`, and that of a study: no dtype, no backend, and the arm as the model's name."""
    notes = []
    monkeypatch.setattr(logger, "warning", notes.append)
    write(tmp_path / "out", **changes)
    results = run(Counting(), tokenizer, tmp_path / "out", tasks=TASKS)
    assert ["whether its answers are of the same weights is not known" in note for note in notes] == [True]
    assert (results["format_version"], results["weights"]) == (2, "w")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "x"}, "prompts: 'x' there, '3d57fc38c25fac2f' asked for"),
        ({"questions": {"sums": "x", "words": "e542b752e7bedaa9"}}, "questions: "),
        ({"generation": {**OLD["generation"], "dtype": "bfloat16"}}, "dtype: 'bfloat16' there, 'float32' asked for"),
        ({"model": "other"}, "model: 'other' there, 'fake' asked for"),
    ],
)
def test_what_an_evaluation_of_before_does_say_counts(tokenizer, tmp_path, changes, message):
    write(tmp_path / "out", **changes)
    with pytest.raises(EvaluationError, match=message):
        start_or_go_on(tmp_path / "out", settings(tokenizer))


def test_a_percent_sign_changes_no_fingerprint(tokenizer):
    """Gold answers lost it before 0.2."""
    first, *rest = TASKS[0].questions
    signed, other = (
        settings(tokenizer, [replace(TASKS[0], questions=[replace(first, gold=gold), *rest])])["tasks"]["sums"]
        for gold in (first.gold + "\\%", first.gold + "5")
    )
    assert signed == settings(tokenizer)["tasks"]["sums"] != other
