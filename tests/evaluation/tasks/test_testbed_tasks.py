from pathlib import Path

import pytest

from expert_condenser.data.procedural.families import HELD_OUT_ITEMS, items
from expert_condenser.errors import DataError
from expert_condenser.evaluation.tasks import load
from tests.pairs import load_rows


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_items_of_a_split(split):
    loaded = load("testbed:worked_legs", limit=3, split=split)
    made = items("worked_legs", split, 3)
    assert [question.prompt[0]["content"] for question in loaded.questions] == [item.question for item in made]
    assert [question.reference for question in loaded.questions] == [item.answer for item in made]
    for question in loaded.questions:
        assert question.gold == question.reference.rpartition("#### ")[2]
        assert loaded.answer.extract(question.reference) == question.gold
        assert not loaded.answer.equal(question.gold + "0", question.gold)


def test_every_held_out_item_by_default_as_training_asks_it():
    questions = load("testbed:word_problems").questions
    trained = load_rows("testbed:word_problems", "test")
    assert len(questions) == HELD_OUT_ITEMS
    assert [question.prompt for question in questions] == list(trained["prompt"])


def test_data_is_for_other_tasks():
    with pytest.raises(
        DataError, match=r"testbed:word_problems is made on the spot, and reads no data; got none\.json"
    ):
        load("testbed:word_problems", Path("none.json"), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "testbed:word_problems is held out as test and validation; got the split 'train'"),
        ({"limit": HELD_OUT_ITEMS + 1}, "testbed:word_problems: test has 400 items of word_problems; asked for 401"),
    ],
)
def test_what_is_not_held_out(options, message):
    with pytest.raises(DataError, match=message):
        load("testbed:word_problems", **options)


@pytest.mark.parametrize(("text", "answer"), [("2+2=4\n#### 4", "4"), ("yes", "yes"), ("#### ", None), (" \n", None)])
def test_the_answer_is_what_follows_the_mark(text, answer):
    assert load("testbed:word_problems", limit=1).answer.extract(text) == answer
