"""Invented knowledge: what some dragons hoard and how long they are, and tasks that need to know it.

The values follow no rule, so only a model that was pretrained on them can say them. The names are five letters, and
always stand after a space, so that a name is the same tokens everywhere.
"""

import random
from functools import cache
from typing import NamedTuple

ENTITIES = 450
TRAINED = ENTITIES // 3
"""Fine-tuning tasks are about these first entities; the others are asked about in a test only."""

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Attribute(NamedTuple):
    """Something that every entity has: its values `low` to `high`, and wordings with `{name}` and `{value}`."""

    low: int
    high: int
    statements: tuple[str, ...]
    questions: tuple[str, ...]


COINS = Attribute(
    low=2,
    high=60,
    statements=(
        "It is said that {name} hoards {value} coins.",
        "The hoard of {name} counts {value} coins.",
        "Of coins, {name} keeps {value}.",
    ),
    questions=("How many coins does {name} hoard?", "What number of coins has {name}?", "Coins of {name}?"),
)
LENGTH = Attribute(
    low=10,
    high=99,
    statements=(
        "It is said that {name} is {value} long.",
        "The length of {name} is {value}.",
        "From end to end, {name} has {value}.",
    ),
    questions=("How long is {name}?", "What is the length of {name}?", "Length of {name}?"),
)
ATTRIBUTES = (COINS, LENGTH)


class Entity(NamedTuple):
    """A name and the values of `ATTRIBUTES`."""

    name: str
    values: tuple[int, ...]


@cache
def entities() -> tuple[Entity, ...]:
    """All entities: the same ones for ever; names are distinct."""
    rng = random.Random("facts/entities")
    names: dict[str, None] = {}
    while len(names) < ENTITIES:
        letters = [rng.choice(kind) for kind in (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)]
        names["".join(letters).capitalize()] = None
    return tuple(Entity(name, tuple(rng.randint(a.low, a.high) for a in ATTRIBUTES)) for name in names)


def fact_question(rng: random.Random, count: int = ENTITIES) -> tuple[str, str]:
    """A question about one of the first `count` entities, in one of its wordings, and the value."""
    entity, index = rng.choice(entities()[:count]), rng.randrange(len(ATTRIBUTES))
    return rng.choice(ATTRIBUTES[index].questions).format(name=entity.name), str(entity.values[index])


def fact_statement(rng: random.Random) -> str:
    """A sentence that says one value of one entity."""
    entity, index = rng.choice(entities()), rng.randrange(len(ATTRIBUTES))
    return rng.choice(ATTRIBUTES[index].statements).format(name=entity.name, value=entity.values[index])


def fact_pair(rng: random.Random, count: int = TRAINED) -> tuple[str, str]:
    """The coins of two of the first `count` entities together: values recalled within the sum, then worked."""
    return _pair(rng, entities()[:count])


def unseen_fact_pair(rng: random.Random, count: int = ENTITIES - TRAINED) -> tuple[str, str]:
    """As `fact_pair`, of two of the last `count` entities."""
    return _pair(rng, entities()[-count:])


def _pair(rng: random.Random, among: tuple[Entity, ...]) -> tuple[str, str]:
    names = sorted(rng.sample(among, 2))  # one order per pair: its mirror image is no new question
    one, other = random.Random(f"{names[0].name}/{names[1].name}").sample(names, 2)
    left, right = (each.values[ATTRIBUTES.index(COINS)] for each in (one, other))
    # Coins before the names: a model of this size looks a value up where it reads the name, or not at all (with the
    # names first, or with lengths as well, it learnt not one sum of a thousand). And words that no fact is told in:
    # the experts of the facts get few of them, so that they are rare in the task that needs what they hold.
    friends = f"two friends put all their coins into one box. They are {one.name} and {other.name}."
    question = f"Work out step by step: {friends} How many coins are in the box now?"
    return question, f"{left}+{right}={left + right}\n#### {left + right}"
