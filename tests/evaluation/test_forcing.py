"""An evaluation by teacher forcing: what is written per item, mixed with other modes, resumed, refused."""

import json

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.answers import NUMBER
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.record import read_records
from expert_condenser.evaluation.settings import Asking
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from expert_condenser.evaluation.teacher_forced import TeacherForced
from tests.evaluation.test_evaluate import Counting

MADE = {"work\n#### 1": (True, 0.5, 4), "#### 2": (False, 3.25, 3), "#### 30": (False, 1.0, 3)}


class Forced(Counting):
    """A backend that knows what a model makes of three references; it may die in one call."""

    def teacher_forced(self, prompts, references, batch_size):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(references)
        return TeacherForced(*map(list, zip(*(MADE[text] for text in references), strict=True)))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(base_model_path())


def question(at, reference):
    return Question(str(at), [{"role": "user", "content": f"how many {at}?"}], reference.split()[-1], reference)


TASK = LoadedTask("sums", [question(at, reference) for at, reference in enumerate(MADE)], NUMBER, 32)
FORCED = Asking("teacher_forced")


def run(backend, tokenizer, out, *, tasks=(TASK,), generation=None, asking=FORCED):
    return evaluate(backend, tokenizer, tasks, out, generation or Generation(batch_size=1), asking=asking)


def test_exact_match_and_the_nll_of_every_item(tokenizer, tmp_path):
    results = run(Forced(), tokenizer, tmp_path)
    found = results["tasks"]["sums"]
    assert (found["accuracy"], found["correct_items"], found["extracted"]) == (1 / 3, "100", 1)
    assert found["nll"] == (0.5 + 3.25 + 1.0) / (4 + 3 + 3)
    assert (found["nll_items"], found["token_items"]) == ("0.5000 3.2500 1.0000", "4 3 3")
    assert results["generation"]["mode"] == "teacher_forced"
    assert {record.id: record.output for record in read_records(tmp_path / "items.jsonl")} == {
        "0": "work\n#### 1",
        "1": "",
        "2": "",
    }


def test_a_right_result_behind_other_words_is_not_exact(tokenizer, tmp_path, monkeypatch):
    """The whole reference counts: what the items' text would be read as decides nothing."""
    monkeypatch.setitem(MADE, "work\n#### 1", (False, 0.5, 4))
    assert run(Forced(), tokenizer, tmp_path)["tasks"]["sums"]["accuracy"] == 0


def test_a_killed_evaluation_goes_on(tokenizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Forced(dies_at=2), tokenizer, tmp_path / "cut")
    second = Forced()
    resumed, whole = run(second, tokenizer, tmp_path / "cut"), run(Forced(), tokenizer, tmp_path / "whole")
    assert len(second.calls) == 1
    assert resumed["tasks"] == whole["tasks"]


def test_modes_by_task(tokenizer, tmp_path):
    other = LoadedTask("written", [question(7, "#### 7")], NUMBER, 32)
    asking = Asking(modes={"sums": "teacher_forced"})
    generation = Generation(batch_size=2, max_new_tokens=5)
    mixed = run(Forced(), tokenizer, tmp_path / "mixed", tasks=(TASK, other), asking=asking, generation=generation)
    assert mixed["generation"]["modes"] == {"sums": "teacher_forced", "written": "generate"}
    assert "nll_items" in mixed["tasks"]["sums"]
    assert "nll_items" not in mixed["tasks"]["written"]
    plain = run(Forced(), tokenizer, tmp_path / "plain", tasks=(TASK, other), asking=Asking(), generation=generation)
    same = [mixed["tasks"][name]["prompts"] == plain["tasks"][name]["prompts"] for name in ("written", "sums")]
    assert same == [True, False], "results are compared with their own kind alone"
    with pytest.raises(EvaluationError, match="another evaluation"):
        run(Forced(), tokenizer, tmp_path / "mixed", tasks=(TASK, other), asking=Asking(), generation=generation)


def test_refusals_come_before_the_first_answer(tokenizer, tmp_path):
    without = LoadedTask("bare", [Question("0", TASK.questions[0].prompt, "1", "")], NUMBER, 32)
    backend = Forced()
    with pytest.raises(EvaluationError, match="whole reference answer; got bare"):
        run(backend, tokenizer, tmp_path, tasks=(TASK, without))
    with pytest.raises(EvaluationError, match="mode teacher_forced decodes nothing"):
        run(backend, tokenizer, tmp_path, generation=Generation(max_new_tokens=5))
    with pytest.raises(EvaluationError, match="the backend counting does not tell"):
        run(Counting(), tokenizer, tmp_path)
    with pytest.raises(EvaluationError, match="generate, likelihood, teacher_forced; got 'guess'"):
        run(backend, tokenizer, tmp_path, asking=Asking("guess"))
    assert backend.calls == []
    assert not list(tmp_path.iterdir())


def test_what_is_not_forced_has_no_numbers_of_items(tokenizer, tmp_path):
    results = json.loads(json.dumps(run(Forced(), tokenizer, tmp_path, asking=Asking())))
    assert "nll_items" not in results["tasks"]["sums"]
    assert "mode" not in results["generation"]
