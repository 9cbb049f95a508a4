"""Templates that print today's date: one evaluation asks as on one day, whenever it goes on."""

import copy
import datetime

import pytest

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.day import day_of, on_the_day
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.settings import Asking
from expert_condenser.files import write_json
from tests.evaluation.test_evaluate import Counting, task

FIRST, OTHER = datetime.date(2024, 2, 3), datetime.date(2025, 5, 6)


@pytest.fixture
def tokenizer():
    found = copy.deepcopy(load_tokenizer(base_model_path()))
    found.chat_template = "It is {{ strftime_now('%d %B %Y') }}. " + found.chat_template
    return found


def asked(tokenizer, out, **options):
    backend = Counting()
    found = evaluate(backend, tokenizer, [task("sums", 3)], out, Generation(batch_size=2), asking=Asking(**options))
    return [prompt for prompts, _, _ in backend.calls for prompt in prompts], found


def test_every_question_shows_the_day_that_is_asked_for(tokenizer, tmp_path):
    prompts, found = asked(tokenizer, tmp_path, date=FIRST)
    assert len(prompts) == 3
    assert all(prompt.startswith("It is 03 February 2024. ") for prompt in prompts)
    assert found["generation"]["date"] == "2024-02-03"
    assert "strftime_now" in tokenizer.chat_template


def test_without_one_it_is_today(tokenizer, tmp_path):
    before = datetime.date.today()
    prompts, found = asked(tokenizer, tmp_path)
    day = datetime.date.fromisoformat(found["generation"]["date"])
    assert before <= day <= datetime.date.today()
    assert prompts[0].startswith(f"It is {day:%d %B %Y}. ")


def test_an_evaluation_goes_on_as_on_its_first_day(tokenizer, tmp_path):
    asked(tokenizer, tmp_path, date=FIRST)
    lines = (tmp_path / "items.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "items.jsonl").write_text("".join(lines[:2]))
    prompts, found = asked(tokenizer, tmp_path)
    assert prompts
    assert prompts[0].startswith("It is 03 February 2024. ")
    assert found["generation"]["date"] == "2024-02-03"


def test_another_day_is_another_evaluation(tokenizer, tmp_path):
    _, one = asked(tokenizer, tmp_path / "one", date=FIRST)
    _, other = asked(tokenizer, tmp_path / "other", date=OTHER)
    assert one["prompts"] != other["prompts"]
    with pytest.raises(EvaluationError, match="date: '2024-02-03' there, '2025-05-06' asked for"):
        asked(tokenizer, tmp_path / "one", date=OTHER)


def test_a_tuned_model_is_asked_as_on_the_day_of_its_run(tokenizer, tmp_path):
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "run.json", {"data": {"date": str(OTHER)}})
    assert day_of(tokenizer, tmp_path, str(tmp_path / "run" / "model")) == OTHER
    assert day_of(tokenizer, tmp_path, str(tmp_path / "run" / "model"), FIRST) == FIRST
    assert day_of(tokenizer, tmp_path, str(tmp_path / "elsewhere")) == datetime.date.today()


def test_a_template_without_a_clock_has_no_day(tmp_path):
    plain = load_tokenizer(base_model_path())
    _, found = asked(plain, tmp_path)
    assert "date" not in found["generation"]
    with pytest.raises(EvaluationError, match="shows no date"):
        asked(plain, tmp_path / "dated", date=FIRST)


def test_a_clock_whose_format_is_computed_is_refused(tokenizer):
    tokenizer.chat_template = "{{ strftime_now(form) }}"
    with pytest.raises(EvaluationError, match="computed"), on_the_day(tokenizer, FIRST):
        pass
