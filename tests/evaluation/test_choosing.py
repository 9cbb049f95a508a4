"""An evaluation by log-likelihood: what is asked, what is chosen, what is written, and what is refused."""

import json

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.answers import NUMBER, SOLUTION
from expert_condenser.evaluation.backends.base import Backend, ScoringBackend
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.choosing import first_best
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.record import read_records
from expert_condenser.evaluation.score_answers import score
from expert_condenser.evaluation.settings import Asking
from expert_condenser.evaluation.tasks.commonsense import instruction
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from tests.evaluation.test_evaluate import Counting

LIKELY = {  # the gold option is the second one of each
    "boil": -9.0,
    "freeze it now": -10.0,
    "run": -1.0,
    "walk": -2.0,
    "the correct answer is solution1": -3.0,
    "the correct answer is solution2": -2.5,
}


class Scoring(Counting):
    """A backend that knows how likely some texts are; it may die in one call."""

    def log_likelihoods(self, pairs, batch_size):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append((pairs, batch_size))
        return [LIKELY[pair.text] for pair in pairs]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


def question(at, *texts):
    turns = [{"role": "user", "content": instruction("solution", f"cook it {at}", texts)}]
    return Question(str(at), turns, "solution2", "the correct answer is solution2")


TASK = LoadedTask("piqa", [question(0, "boil", "freeze it now"), question(1, "run", "walk")], SOLUTION, 32)
GENERATION = Generation(batch_size=1)


def run(backend, tokenizer, out, *, tasks=(TASK,), generation=GENERATION):
    return evaluate(backend, tokenizer, tasks, out, generation, asking=Asking("likelihood"))


def test_accuracies_by_three_rules(tokenizer, tmp_path):
    found = run(Scoring(), tokenizer, tmp_path)["tasks"]["piqa"]
    assert (found["acc"], found["acc_norm"], found["acc_answer"]) == (0, 1 / 2, 1)
    assert (found["accuracy"], found["correct_items"], found["extracted"]) == (0, "00", 2)
    for record in read_records(tmp_path / "items.jsonl"):
        assert (record.output, record.extracted) == ("the correct answer is solution1", "solution1")
        assert record.log_p["answer"] == [-3.0, -2.5]
    assert score("piqa", tmp_path / "items.jsonl")[0] == {"n": 2, "extracted": 2, "correct": 0}


def test_what_is_asked(tokenizer, tmp_path):
    backend = Scoring()
    assert isinstance(backend, ScoringBackend)
    run(backend, tokenizer, tmp_path)
    (pairs, _), _ = backend.calls
    assert [pair.text for pair in pairs] == list(LIKELY)[:2] + list(LIKELY)[4:]
    assert {pair.context for pair in pairs} == {
        tokenizer.apply_chat_template(TASK.questions[0].prompt, tokenize=False, add_generation_prompt=True)
    }


def test_a_killed_one_goes_on(tokenizer, tmp_path):
    whole = run(Scoring(), tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Scoring(dies_at=1), tokenizer, tmp_path / "killed")
    rest = Scoring()
    assert run(rest, tokenizer, tmp_path / "killed")["tasks"] == whole["tasks"]
    assert len(rest.calls) == 1


def test_the_mode_is_part_of_the_identity(tokenizer, tmp_path):
    chosen = run(Scoring(), tokenizer, tmp_path / "chosen")
    written = evaluate(Scoring(), tokenizer, [TASK], tmp_path / "written", GENERATION)
    assert chosen["generation"] == {**written["generation"], "mode": "likelihood"}
    for key in ("prompts", "questions"):
        assert (chosen["tasks"]["piqa"][key] == written["tasks"]["piqa"][key]) == (key == "questions")
    with pytest.raises(EvaluationError, match="mode: 'likelihood' there, None asked for"):
        evaluate(Scoring(), tokenizer, [TASK], tmp_path / "chosen", GENERATION)
    with pytest.raises(EvaluationError, match="mode: None there, 'likelihood' asked for"):
        run(Scoring(), tokenizer, tmp_path / "written")


def test_what_cannot_be_asked_is_refused_before_anything(tokenizer, tmp_path):
    backend, out = Counting(), tmp_path / "out"
    assert isinstance(backend, Backend)
    with pytest.raises(EvaluationError, match="the backend counting does not tell; take the backend transformers"):
        run(backend, tokenizer, out)
    numbers = LoadedTask("gsm8k", TASK.questions, NUMBER, 32)
    with pytest.raises(EvaluationError, match=r"whose questions list options in words, .* got gsm8k"):
        run(Scoring(), tokenizer, out, tasks=[TASK, numbers])
    for generation in (Generation(temperature=1.0, samples=2), Generation(max_new_tokens=3)):
        with pytest.raises(EvaluationError, match="mode likelihood decodes nothing"):
            run(Scoring(), tokenizer, out, generation=generation)
    with pytest.raises(EvaluationError, match="a mode is one of generate, likelihood, teacher_forced; got 'likely'"):
        evaluate(Scoring(), tokenizer, [TASK], out, GENERATION, asking=Asking("likely"))
    assert not out.exists()


def test_a_model_chooses(tokenizer, tmp_path):
    backend = LocalBackend(base_model_path(), tokenizer, device="cpu")
    found = run(backend, tokenizer, tmp_path, generation=Generation(batch_size=8))
    records = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert all(log_p < 0 for record in records for own in record["log_p"].values() for log_p in own)
    right = [record["log_p"]["text"][1] > record["log_p"]["text"][0] for record in records]
    assert found["tasks"]["piqa"]["acc"] == sum(right) / 2
    assert found["tasks"]["piqa"]["nll"] > 0


def test_the_first_of_equal_ones():
    assert [first_best(values) for values in ([1.0, 1.0], [0.0, 1.0, 1.0], [-2.0])] == [0, 1, 0]
