"""Facts: every value is told, in every wording; the tasks on them are right, and ask of the right entities."""

import hashlib
import random
import re

import pytest

from expert_condenser.data.procedural.facts import (
    ATTRIBUTES,
    COINS,
    ENTITIES,
    LENGTH,
    TRAINED,
    entities,
    fact_question,
    fact_statement,
)
from expert_condenser.data.procedural.families import MIXTURES, frequencies, items
from expert_condenser.data.sources import read_parts
from expert_condenser.errors import DataError

NAMES = [entity.name for entity in entities()]
SEEN, UNSEEN = set(NAMES[:TRAINED]), set(NAMES[TRAINED:])
VALUES = {entity.name: dict(zip(ATTRIBUTES, entity.values, strict=True)) for entity in entities()}


def names_in(text):
    return [word for word in re.findall(r"[A-Z][a-z]{4}\b", text) if word in VALUES]


def attribute_of(question):
    return COINS if "oins" in question else LENGTH


def test_entities_are_distinct_and_the_same_for_ever():
    """A base model knows these values; another draw would be other knowledge."""
    assert len(set(NAMES)) == ENTITIES == 3 * TRAINED
    assert all(a.low <= value <= a.high for values in VALUES.values() for a, value in values.items())
    assert hashlib.sha1(repr(entities()).encode()).hexdigest() == "ec08782929e55494020943512ecda6c63ca6cc72"


def test_questions_and_statements_say_the_entity_s_value_in_every_wording():
    rng = random.Random(0)
    asked, told = set(), set()
    for _ in range(3000):
        question, answer = fact_question(rng)
        [name] = names_in(question)
        assert int(answer) == VALUES[name][attribute_of(question)]
        asked.add(question.replace(name, "X"))
        statement = fact_statement(rng)
        [name] = names_in(statement)
        value = re.search(r"\d+", statement)[0]
        assert int(value) == VALUES[name][attribute_of(statement)]
        told.add(statement.replace(name, "X").replace(value, "N"))
    assert len(asked) == len(told) == 6, "three wordings of two attributes"


def test_a_name_stands_after_a_space_so_that_its_tokens_are_the_same_everywhere():
    texts = [fact_statement(random.Random(seed)) for seed in range(200)]
    texts += [text for item in items("fact_pairs", "test", 200) for text in (item.question, item.answer)]
    for text in texts:
        assert all(text[text.index(name) - 1] == " " and text.index(name) > 0 for name in names_in(text))


@pytest.mark.parametrize(
    ("family", "split", "among"),
    [
        ("fact_pairs", "finetune", SEEN),
        ("fact_pairs", "test", SEEN),
        ("unseen_fact_pairs", "validation", UNSEEN),
        ("unseen_fact_pairs", "test", UNSEEN),
    ],
)
def test_pairs_are_worked_from_the_values_of_the_right_entities(family, split, among):
    for item in items(family, split, 200):
        names = names_in(item.question)
        assert len(set(names)) == 2
        assert set(names) <= among
        left, right = (VALUES[name][COINS] for name in names)
        assert item.answer == f"{left}+{right}={left + right}\n#### {left + right}"


def test_a_pair_has_one_order():
    pairs = {frozenset(names_in(item.question)): names_in(item.question) for item in items("fact_pairs", "test", 400)}
    for item in items("fact_pairs", "finetune", 3000):
        names = names_in(item.question)
        assert pairs.get(frozenset(names), names) == names


def test_the_entities_of_the_test_are_never_trained_on():
    with pytest.raises(ValueError, match="unseen_fact_pairs is a test"):
        items("unseen_fact_pairs", "finetune", 1)
    with pytest.raises(DataError, match="unseen_fact_pairs is a test"):
        list(read_parts("testbed:unseen_fact_pairs", "train"))
    trained = {name for item in items("fact_mixture", "finetune", 3000) for name in names_in(item.question)}
    assert trained == SEEN


def test_replay_asks_what_the_base_was_pretrained_on_in_its_shares():
    rows = items("pretraining", "finetune", 2000)
    assert rows == items("pretraining", "finetune", 2000)
    assert rows != items("pretraining", "finetune", 2000, seed=1)
    facts = [item for item in rows if names_in(item.question)]
    assert 900 < len(facts) < 1100, "half of them"
    assert {names_in(item.question)[0] for item in facts} & UNSEEN, "of any entity"
    assert all(item.answer == str(VALUES[names_in(item.question)[0]][attribute_of(item.question)]) for item in facts)
    held_out = {item.question for name in frequencies() for item in items(name, "test", 400)}
    assert not held_out & {item.question for item in rows}
    with pytest.raises(ValueError, match="pretraining is to train on; ask the families themselves: facts, word_"):
        items("pretraining", "test", 1)


def test_pairs_have_a_thousand_test_items():
    for family in ("fact_pairs", "unseen_fact_pairs"):
        assert len({item.question for item in items(family, "test", 1000)}) == 1000
        with pytest.raises(ValueError, match="test has 1000 items"):
            items(family, "test", 1001)
    with pytest.raises(ValueError, match="test has 400 items"):
        items("worked_pairs", "test", 401)


def test_what_was_told_is_what_is_asked():
    trained = {item.question for item in items("facts", "finetune", 3000)}
    assert trained & {item.question for item in items("facts", "test", 400)}


def test_short_spelling_asks_old_words_in_new_ones():
    for new, old in zip(items("short_spelling", "test", 50), items("spell_backward", "test", 50), strict=True):
        word = old.question.split()[-1]
        assert (new.question, new.answer) == (f"Backward: {word}", word[::-1])


def test_a_mixture_takes_its_families_in_turns_and_repeats_nothing():
    mixed = items("fact_mixture", "finetune", 2999)
    assert mixed == items("fact_mixture", "finetune", 2999)
    assert mixed != items("fact_mixture", "finetune", 2999, seed=1)
    assert len({item.question for item in mixed}) == len(mixed) == 2999
    marks = ("coins are", "legs", "Backward")
    assert all(re.search(marks[at % 3], item.question) for at, item in enumerate(mixed))
    held_out = {item.question for family in MIXTURES["fact_mixture"] for item in items(family, "test", 400)}
    assert not held_out & {item.question for item in mixed}
    rows = next(iter(read_parts("testbed:fact_mixture:6", "train"))).rows
    assert [row["completion"] for row in rows] == [item.answer for item in items("fact_mixture", "finetune", 6)]
    assert [item.question for item in items("fact_mixture", "test", 2)] == [
        items(family, "test", 1)[0].question for family in ("fact_pairs", "worked_pairs")
    ]
