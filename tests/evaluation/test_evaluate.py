"""The evaluation of a model: what is written, that a killed one goes on, and that re-scoring needs no model."""

import copy
import json
from dataclasses import replace

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.answers import LATEX, NUMBER, VERBATIM
from expert_condenser.evaluation.backends.base import Backend
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate, plan, scored
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.record import read_records
from expert_condenser.evaluation.tasks import load
from expert_condenser.evaluation.tasks.task import LoadedTask, Question

LENGTHS = {"sums": 4, "words": 8}


class Counting:
    """A backend that answers with the last word of the prompt and remembers its calls; it may die in one."""

    def __init__(self, dies_at=None, nll=None, **identity):
        self.calls, self.dies_at, self.found = [], dies_at, nll
        self.identity = {"model": "fake", "backend": "counting", "dtype": "float32", "weights": "w", **identity}

    def generate(self, prompts, max_new_tokens, generation, seed):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append((prompts, max_new_tokens, seed))
        return [Answer(f"#### {prompt.split('<|end|>')[0].split()[-1]}-{seed}", 3, True) for prompt in prompts]

    def nll(self, prompts, references, batch_size):
        self.references = references
        return self.found


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


def task(name, count):
    questions = [
        Question(str(i), [{"role": "user", "content": f"say {'so ' * i}{i}"}], f"{i}-0", f"#### {i}")
        for i in range(count)
    ]
    return LoadedTask(name, questions, VERBATIM, LENGTHS[name])


def run(backend, tokenizer, out, *, tasks=None, generation=None, **options):
    asked = tasks or [task("sums", 5), task("words", 3)]
    return evaluate(backend, tokenizer, asked, out, generation or Generation(batch_size=2), **options)


def test_what_is_written(tokenizer, tmp_path):
    backend = Counting()
    assert isinstance(backend, Backend)
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
        {"backend": Counting(dtype="bfloat16")},
        {"backend": Counting(weights="others")},
        {"backend": Counting(backend="vllm")},
    ],
)
def test_another_evaluation_is_refused(tokenizer, tmp_path, change):
    run(Counting(), tokenizer, tmp_path)
    asked = {"backend": Counting(), **change}
    with pytest.raises(EvaluationError, match="holds another evaluation"):
        run(asked.pop("backend"), tokenizer, tmp_path, **asked)


def test_what_a_model_is_called_decides_nothing(tokenizer, tmp_path):
    first = run(Counting(model="runs/a/model"), tokenizer, tmp_path)
    again = Counting(model="/elsewhere/copy")
    assert run(again, tokenizer, tmp_path, label="sft")["model"] == "sft"
    assert again.calls == []
    assert first["model"] == "runs/a/model"


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


def test_the_nll_is_what_the_backend_says_of_the_references(tokenizer, tmp_path):
    backend = Counting(nll=0.25)
    results = run(backend, tokenizer, tmp_path / "nll", tasks=[task("sums", 5)])
    assert results["tasks"]["sums"]["nll"] == 0.25
    assert backend.references == [f"#### {i}" for i in range(5)]
    bare = task("sums", 2)
    without = LoadedTask("sums", [replace(question, reference="") for question in bare.questions], VERBATIM, 4)
    assert run(Counting(nll=0.25), tokenizer, tmp_path / "bare", tasks=[without])["tasks"]["sums"]["nll"] is None
    assert run(Counting(), tokenizer, tmp_path / "cannot", tasks=[bare])["tasks"]["sums"]["nll"] is None


def test_a_template_that_fails_comes_before_the_backend_and_the_folder(tokenizer, tmp_path):
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ raise_exception('no') }}"
    backend = Counting()
    with pytest.raises(EvaluationError, match="the chat template must render every turn"):
        run(backend, broken, tmp_path / "out")
    assert backend.calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_base_model_on_its_families(tokenizer, tmp_path):
    tasks = [load("testbed:aiw", limit=10), load("testbed:worked_pairs", limit=10)]
    backend = LocalBackend(base_model_path(), tokenizer, device="cpu")
    results = run(backend, tokenizer, tmp_path, tasks=tasks)["tasks"]
    assert results["testbed:aiw"]["accuracy"] >= 0.9 > 0.2 >= results["testbed:worked_pairs"]["accuracy"]
    assert results["testbed:aiw"]["nll"] < 0.1 < 1 < results["testbed:worked_pairs"]["nll"]


class Speaking(Counting):
    """A backend that always answers the same."""

    def __init__(self, text, raw=None):
        super().__init__()
        self.answer = Answer(text, 3, True, raw)

    def generate(self, prompts, max_new_tokens, generation, seed):
        return [self.answer for _ in prompts]


ANALYSIS, FINAL = "<|channel|>analysis<|message|>4?<|end|><|start|>assistant", "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "raw", "states"),
    [
        ("24", None, "24"),
        ("analysis4?assistantfinal24", f"{ANALYSIS}{FINAL}24", "24"),
        ("analysis4?", ANALYSIS.partition("<|end|>")[0], None),
        ("analysis4?assistantfinal24", None, "24"),
        ("24\nuser\nand 3?", "24<|im_end|>\n<|im_start|>user\nand 3?", "24"),
    ],
)
def test_the_raw_text_is_kept_and_read(tokenizer, tmp_path, text, raw, states):
    asked = LoadedTask("sums", task("sums", 1).questions, NUMBER, 4)
    run(Speaking(text, raw), tokenizer, tmp_path, tasks=[asked])
    (record,) = read_records(tmp_path / "items.jsonl")
    assert (record.output, record.raw, record.extracted) == (text, raw, states)


@pytest.mark.parametrize(("text", "states"), [("so \\boxed{4}?", None), ("so 4?</think>24", "24")])
def test_thoughts_that_the_prompt_opens(tokenizer, tmp_path, text, states):
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = "{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}"
    asked = LoadedTask("sums", task("sums", 1).questions, NUMBER, 4)
    for own, opening, extracted in ((thinking, "<think>", states), (tokenizer, "", "24" if states else "4")):
        run(Speaking(text), own, tmp_path / (opening or "none"), tasks=[asked])
        (record,) = read_records(tmp_path / (opening or "none") / "items.jsonl")
        assert (record.raw, record.extracted) == (f"{opening}{text}" if opening else None, extracted)


def test_what_stands_beside_the_accuracy(tokenizer, tmp_path):
    pytest.importorskip("lm_eval")
    pytest.importorskip("math_verify")
    questions = [replace(question, gold="24") for question in task("sums", 2).questions]
    asked = [LoadedTask("gsm8k", questions, NUMBER, 4), LoadedTask("math_500", questions, LATEX, 4)]
    found = run(Speaking("\\boxed{24}"), tokenizer, tmp_path, tasks=asked)["tasks"]
    assert found["gsm8k"]["accuracy"] == found["math_500"]["accuracy"] == 1
    assert {**found["gsm8k"]["lm_eval"], "version": 0} == {"version": 0, "strict-match": 0, "flexible-extract": 1}
    assert found["math_500"]["comparison"].startswith("math-verify ")
    assert "lm_eval" not in found["math_500"]
    assert "comparison" not in found["gsm8k"]
