"""The evaluation of a model: what is written, that a killed one goes on, and that re-scoring needs no model."""

import json

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.answers import VERBATIM
from expert_condenser.evaluation.backends.transformers_backend import Answer, Generation, ModelBackend
from expert_condenser.evaluation.evaluate import evaluate, plan, scored, settings_of
from expert_condenser.evaluation.record import read_records
from expert_condenser.evaluation.tasks import load
from expert_condenser.evaluation.tasks.task import LoadedTask, Question

LENGTHS = {"sums": 4, "words": 8}


class Counting:
    """A backend that answers with the last word of the prompt and remembers its calls; it may die in one."""

    def __init__(self, dies_at=None):
        self.calls, self.dies_at = [], dies_at

    def generate(self, prompts, max_new_tokens, generation, seed):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append((prompts, max_new_tokens, seed))
        return [Answer(f"#### {prompt.split('<|end|>')[0].split()[-1]}-{seed}", 3, True) for prompt in prompts]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


def task(name, count):
    questions = [
        Question(str(i), [{"role": "user", "content": f"say {'so ' * i}{i}"}], f"{i}-0", f"#### {i}")
        for i in range(count)
    ]
    return LoadedTask(name, questions, VERBATIM, LENGTHS[name])


def run(backend, tokenizer, out, *, tasks=None, generation=None, model="fake", dtype="float32", **options):
    asked = tasks or [task("sums", 5), task("words", 3)]
    how = generation or Generation(batch_size=2)
    settings = settings_of(tokenizer, asked, how, model, dtype=dtype)
    return evaluate(backend, tokenizer, asked, out, how, settings=settings, progress=False, **options)


def test_what_is_written(tokenizer, tmp_path):
    backend = Counting()
    results = run(backend, tokenizer, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [limit for _, limit, _ in backend.calls] == [4, 4, 4, 8, 8]
    records = read_records(tmp_path / "items.jsonl")
    assert len({record.key for record in records}) == 8
    expected = {f"{r.id}-0" == r.extracted for r in records}
    assert expected == {True, False}  # only the first batch, with seed 0, answers with -0
    for name in ("sums", "words"):
        found = results["tasks"][name]
        own = sorted((r for r in records if r.task == name), key=lambda r: int(r.id))
        assert found["correct_items"] == "".join("01"[r.correct] for r in own)
        assert (found["n"], found["extracted"], found["nll"]) == (len(own), len(own), None)


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(tokenizer, tmp_path):
    whole = run(Counting(), tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Counting(dies_at=3), tokenizer, tmp_path / "killed")
    assert not (tmp_path / "killed" / "results.json").exists()
    with (tmp_path / "killed" / "items.jsonl").open("a") as file:
        file.write('{"task": "wor')  # a crash in the middle of a line
    rest = Counting()
    resumed = run(rest, tokenizer, tmp_path / "killed")
    assert len(rest.calls) == 2
    assert resumed["tasks"] == whole["tasks"]
    again = Counting()
    run(again, tokenizer, tmp_path / "killed")
    assert again.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"generation": Generation(batch_size=2, max_new_tokens=3)},
        {"tasks": [task("sums", 4), task("words", 3)]},
        {"tasks": [task("sums", 5)]},
        {"dtype": "bfloat16"},
        {"model": "other"},
    ],
)
def test_another_evaluation_is_refused(tokenizer, tmp_path, change):
    run(Counting(), tokenizer, tmp_path)
    with pytest.raises(EvaluationError, match="holds another evaluation"):
        run(Counting(), tokenizer, tmp_path, **change)


def test_another_model_at_the_same_place_is_refused(tokenizer, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"old")
    run(Counting(), tokenizer, tmp_path / "out", model=str(weights.parent))
    run(Counting(), tokenizer, tmp_path / "out", model=str(weights.parent))
    weights.write_bytes(b"new ones")
    with pytest.raises(EvaluationError, match="weights: "):
        run(Counting(), tokenizer, tmp_path / "out", model=str(weights.parent))


def test_a_settings_file_cut_short_is_named(tokenizer, tmp_path):
    run(Counting(), tokenizer, tmp_path)
    (tmp_path / "eval.json").write_text('{"model": ')
    with pytest.raises(DataError, match=r"eval.json must be JSON"):
        run(Counting(), tokenizer, tmp_path)


def test_answers_are_scored_by_the_rules_of_today(tokenizer, tmp_path):
    before = run(Counting(), tokenizer, tmp_path)["tasks"]["sums"]["correct"]
    path = tmp_path / "items.jsonl"
    path.write_text(path.read_text().replace('"correct": true', '"correct": false'))
    assert run(Counting(), tokenizer, tmp_path)["tasks"]["sums"]["correct"] == before > 0


def test_answers_without_their_settings_are_refused(tokenizer, tmp_path):
    (tmp_path / "items.jsonl").write_text("")
    with pytest.raises(EvaluationError, match=r"without eval.json"):
        run(Counting(), tokenizer, tmp_path)


def test_samples_have_the_seed_of_their_batch(tokenizer, tmp_path):
    generation = Generation(batch_size=4, samples=2, temperature=0.7, seed=5)
    backend = Counting()
    results = run(backend, tokenizer, tmp_path, generation=generation)
    assert [seed for _, _, seed in backend.calls] == [5, 6, 7, 8, 9]
    assert set(results["tasks"]["sums"]["pass_at_k"]) == {"1", "2"}


def test_the_plan_covers_every_question_once_whatever_the_batch_size(tokenizer):
    for size in (1, 3, 100):
        batches = plan([task("sums", 5), task("words", 3)], tokenizer, Generation(batch_size=size))
        keys = [request.key for batch in batches for request in batch]
        assert len(keys) == len(set(keys)) == 8
        assert all(len({request.max_new_tokens for request in batch}) == 1 for batch in batches)


def test_records_are_scored_again_without_a_model(tokenizer, tmp_path):
    run(Counting(), tokenizer, tmp_path)
    for record in read_records(tmp_path / "items.jsonl"):
        assert scored(task(record.task, 5), record) == record


@pytest.mark.slow
def test_the_base_model_on_its_families(tokenizer, tmp_path):
    model = load_model(base_model_path())
    tasks = [load("testbed:aiw", limit=10), load("testbed:worked_pairs", limit=10)]
    results = run(ModelBackend(model, tokenizer), tokenizer, tmp_path, tasks=tasks, nll_model=model)["tasks"]
    assert results["testbed:aiw"]["accuracy"] >= 0.9 > 0.2 >= results["testbed:worked_pairs"]["accuracy"]
    assert results["testbed:aiw"]["nll"] < 0.1 < 1 < results["testbed:worked_pairs"]["nll"]
