"""Several tasks at once: which of them `data` is for, and splits that the hub does not have."""

import json

import pytest

from expert_condenser.data import sources
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.tasks import hub_splits, load_tasks

ROW = {"instruction": "What is 2 + 3?", "input": "", "output": "2 + 3 = 5.", "answer": "5.0"}
GCD, AIW = "testbed:gcd", "testbed:aiw"


@pytest.fixture
def hub(monkeypatch):
    """A hub whose data sets have these splits; nothing of them may be loaded."""

    def load_dataset(*arguments, **options):
        raise AssertionError("a data set was loaded")

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_splits, "get_dataset_split_names", lambda *arguments, **options: ["train", "test"])


def test_data_is_for_the_tasks_that_read_it(tmp_path):
    (tmp_path / "gsm8k.json").write_text(json.dumps([ROW] * 3))
    loaded = load_tasks({"gsm8k": 2, GCD: 1, AIW: None}, tmp_path)
    assert [(each.name, len(each.questions)) for each in loaded] == [("gsm8k", 2), (GCD, 1), (AIW, 400)]


def test_data_without_effect(tmp_path):
    (tmp_path / "gsm8k.json").write_text(json.dumps([ROW]))
    with pytest.raises(
        EvaluationError, match=f"{GCD}, {AIW} are made on the spot, and read no data; got .*Leave it out"
    ):
        load_tasks({GCD: 1, AIW: 1}, tmp_path)
    with pytest.raises(EvaluationError, match=r"a data file is of one task; got .* for gsm8k, testbed:gcd"):
        load_tasks({"gsm8k": 1, GCD: 1}, tmp_path / "gsm8k.json")
    assert len(load_tasks({"gsm8k": 1}, tmp_path / "gsm8k.json")) == 1


@pytest.mark.usefixtures("hub")
def test_a_split_that_the_hub_does_not_have_is_found_before_anything_is_loaded():
    with pytest.raises(DataError, match="the splits of openai/gsm8k, the data set of gsm8k, are train, test; got 'val"):
        load_tasks({"gsm8k": None}, split="validation")
    with pytest.raises(AssertionError, match="a data set was loaded"):
        load_tasks({"gsm8k": None}, split="train")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_asked_says_nothing(monkeypatch):
    def refuse(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub_splits, "get_dataset_split_names", refuse)
    with pytest.raises(AssertionError, match="a data set was loaded"):
        load_tasks({"gsm8k": None}, split="validation")
