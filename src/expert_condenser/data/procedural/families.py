"""The task families of the testbed: what its base model was pretrained on, how often, and their splits.

Every family is procedural, so items are made on demand and never stored. Frequencies follow Zipf's
law in the order of `FAMILIES`: the first family is common knowledge, the last ones are the long tail.
Families with `pretrained=False` are new to the base model.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from expert_condenser.data.procedural.facts import ENTITIES, TRAINED, fact_pair, fact_question, unseen_fact_pair
from expert_condenser.data.procedural.word_problems import word_problem
from expert_condenser.data.procedural.worked_tasks import worked_legs, worked_sum

Split = Literal["pretrain", "finetune", "validation", "test"]

ZIPF_EXPONENT = 1.0
FINETUNE_ITEMS = 3000
"""Items of a fine-tuning set unless a number is given."""
HELD_OUT_ITEMS = 400
"""Items of `validation` and of `test` that no training split repeats, where a family does not have more."""

_SPLIT_SIZE = 1_000_000_000
_FIRST_INDEX = {"pretrain": 0, "finetune": _SPLIT_SIZE, "held_out": 2 * _SPLIT_SIZE}


@dataclass(frozen=True)
class Item:
    """One question and its reference answer, as the user and the assistant say them."""

    question: str
    answer: str


@dataclass(frozen=True)
class Family:
    """A procedural task: a reasoning-gym dataset with its options, our own generator, or another family reworded."""

    name: str
    dataset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    generator: Callable[[random.Random, int], tuple[str, str]] | None = None
    size: int = 0
    rewords: str = ""
    """The family whose items are asked in other words, `wording` with the last word of the question."""
    wording: str = ""
    pretrained: bool = True
    trainable: bool = True
    """Whether there are items to fine-tune on; otherwise it is a test only."""
    recalled: bool = False
    """Whether a held-out item is one that was trained on: knowledge can only be asked for where it was told."""
    held_out: int = HELD_OUT_ITEMS
    """Items of `validation`, and as many of `test`."""

    def item(self, index: int) -> Item:
        """The item at `index`: the same one for ever, with reasoning-gym pinned."""
        if self.rewords:
            old = BY_NAME[self.rewords].item(index)
            return Item(self.wording.format(old.question.split()[-1]), old.answer)
        if self.generator is not None:
            return Item(*self.generator(random.Random(f"{self.name}/{index}"), self.size))
        entry = _reasoning_gym(self.name)[index]
        return Item(" ".join(entry["question"].split()), str(entry["answer"]).strip())


FAMILIES: tuple[Family, ...] = (
    Family("word_problems", generator=word_problem, size=2),
    Family("chain_sum", "chain_sum", {"max_terms": 3, "max_digits": 2}),
    Family("letter_counting", "letter_counting", {"min_words": 2, "max_words": 4}),
    Family("syllogism", "syllogism"),
    Family("number_sequence", "number_sequence", {"max_terms": 6, "max_complexity": 2}),
    Family("leg_counting", "leg_counting", {"min_animals": 2, "max_animals": 3, "max_instances": 9}),
    Family("spell_backward", "spell_backward", {"max_word_len": 5}),
    Family("simple_equations", "simple_equations", {"max_terms": 3, "max_value": 20}),
    Family("products", "products", {"max_digits": 2}),
    Family("word_sequence_reversal", "word_sequence_reversal", {"max_words": 4}),
    Family("gcd", "gcd", {"max_value": 60}),
    Family("aiw", "aiw"),
    Family("lcm", "lcm", {"max_value": 50}),
    Family("family_relationships", "family_relationships", {"max_family_size": 5}),
    Family("number_filtering", "number_filtering", {"max_numbers": 4, "max_decimals": 0}),
    Family("count_bits", "count_bits", {"max_n": 4095}),
    Family("simple_geometry", "simple_geometry", {"max_sides": 4}),
    Family("base_conversion", "base_conversion", {"max_value": 60}),
    Family("time_intervals", "time_intervals", {"task_types": ["time"]}),
    Family("long_word_problems", generator=word_problem, size=4),
    Family("long_chain_sum", "chain_sum", {"min_terms": 4, "max_terms": 4, "max_digits": 2}, pretrained=False),
    Family(
        "calendar", "calendar_arithmetic", {"tasks": ["weekday_offset"], "offset_upper_bound": 30}, pretrained=False
    ),
    Family(
        "fractions",
        "fraction_simplification",
        {"max_value": 40, "max_factor": 20, "styles": ["plain"]},
        pretrained=False,
    ),
    Family(
        "decimal_sums",
        "decimal_chain_sum",
        {"max_terms": 2, "max_digits": 2, "max_decimal_places": 1},
        pretrained=False,
    ),
)
TASKS: tuple[Family, ...] = (
    Family("worked_sums", generator=worked_sum, size=5, pretrained=False),
    Family("worked_legs", generator=worked_legs, size=3, pretrained=False),
    Family("worked_pairs", generator=worked_legs, size=2, pretrained=False),
)
"""Tasks to fine-tune on: the base model, its tokenizer included, has never seen them."""
FACTS = Family("facts", generator=fact_question, size=ENTITIES, pretrained=False, recalled=True)
"""What the second embedded base knows beside `PRETRAINED`."""
FACT_TASKS: tuple[Family, ...] = (
    Family("fact_pairs", generator=fact_pair, size=TRAINED, pretrained=False, held_out=1000),
    Family(
        "unseen_fact_pairs",
        generator=unseen_fact_pair,
        size=ENTITIES - TRAINED,
        pretrained=False,
        trainable=False,
        held_out=1000,
    ),
    Family("short_spelling", rewords="spell_backward", wording="Backward: {}", pretrained=False),
)
"""Tasks that need `FACTS`: over entities that fine-tuning shows, and over the others; and a family in new words."""
MIXTURES = {"fact_mixture": ("fact_pairs", "worked_pairs", "short_spelling")}
"""Sets to fine-tune on of several families, in turns and as often."""
REPLAY = "pretraining"
"""What the embedded base was pretrained on, to be mixed into a fine-tuning set: facts asked for, and old families."""
BY_NAME = {family.name: family for family in (*FAMILIES, *TASKS, FACTS, *FACT_TASKS)}
PRETRAINED = tuple(family for family in FAMILIES if family.pretrained)


def frequencies() -> dict[str, float]:
    """Share of the pretraining documents of each family: Zipf's law over `PRETRAINED`, summing to 1."""
    ranks = [rank**-ZIPF_EXPONENT for rank in range(1, len(PRETRAINED) + 1)]
    return {family.name: weight / sum(ranks) for family, weight in zip(PRETRAINED, ranks, strict=True)}


def shares(facts: float = 0.0) -> dict[str, float]:
    """Shares of the documents: `facts` of them facts, the old families in their proportions for the rest."""
    old = {name: (1 - facts) * share for name, share in frequencies().items()}
    return {FACTS.name: facts, **old} if facts else old


def draw(name: str, split: Literal["pretrain", "finetune"], rng: random.Random) -> Item:
    """A random item of a training split, never one that is held out."""
    held_out = frozenset() if BY_NAME[name].recalled else _held_out_questions(name)
    while True:
        item = BY_NAME[name].item(_FIRST_INDEX[split] + rng.randrange(_SPLIT_SIZE))
        if item.question not in held_out:
            return item


def items(name: str, split: Split, count: int, seed: int = 0) -> list[Item]:
    """`count` items of a split: a seeded draw of a training split, always the same first ones of a held-out split.

    Those of a mixture are distinct, and come from its families in turns. Raises `ValueError` on an unknown family, on
    more items than are held out, for the training split of a test, and for a held-out split of `REPLAY`.
    """
    if name in MIXTURES:
        return _mixed(name, split, count, seed)
    if name == REPLAY:
        return _replayed(split, count, seed)
    if name not in BY_NAME:
        raise ValueError(
            f"unknown testbed family {name!r}; the families are: {', '.join([*BY_NAME, *MIXTURES, REPLAY])}"
        )
    if split == "pretrain" or split == "finetune":
        if not BY_NAME[name].trainable:
            raise ValueError(f"{name} is a test: what it asks is never trained on; take its validation or test split")
        rng = random.Random(f"{name}/{split}/{seed}")
        return [draw(name, split, rng) for _ in range(count)]
    if count > (held_out := BY_NAME[name].held_out):
        raise ValueError(f"{split} has {held_out} items of {name}; asked for {count}")
    first = 0 if split == "validation" else held_out
    return list(_held_out(name)[first : first + count])


def _mixed(name: str, split: Split, count: int, seed: int) -> list[Item]:
    families = MIXTURES[name]
    each = -(-count // len(families))
    if split == "validation" or split == "test":
        parts = [items(family, split, each) for family in families]
    else:
        parts = [_distinct_draws(family, split, each, random.Random(f"{name}/{family}/{seed}")) for family in families]
    return [item for turn in zip(*parts, strict=True) for item in turn][:count]


def _replayed(split: Split, count: int, seed: int) -> list[Item]:
    if split == "validation" or split == "test":
        raise ValueError(
            f"{REPLAY} is to train on; ask the families themselves: {FACTS.name}, {', '.join(frequencies())}"
        )
    rng = random.Random(f"{REPLAY}/{split}/{seed}")
    names, weights = zip(*shares(0.5).items(), strict=True)
    return [draw(name, split, rng) for name in rng.choices(names, weights, k=count)]


def _distinct_draws(name: str, split: Literal["pretrain", "finetune"], count: int, rng: random.Random) -> list[Item]:
    distinct: dict[str, Item] = {}
    for _ in range(100 * count):
        item = draw(name, split, rng)
        distinct.setdefault(item.question, item)
        if len(distinct) == count:
            return list(distinct.values())
    raise ValueError(f"{name} must have {count} distinct questions to train on; {len(distinct)} were found")


@cache
def _held_out(name: str) -> tuple[Item, ...]:
    """Distinct questions: those of `validation`, then those of `test`."""
    distinct: dict[str, Item] = {}
    index = _FIRST_INDEX["held_out"]
    wanted = 2 * BY_NAME[name].held_out
    while len(distinct) < wanted:
        if index - _FIRST_INDEX["held_out"] > 50 * wanted:
            raise ValueError(f"{name} must have {wanted} distinct questions to hold out; it has {len(distinct)}")
        item = BY_NAME[name].item(index)
        distinct.setdefault(item.question, item)
        index += 1
    return tuple(distinct.values())


@cache
def _held_out_questions(name: str) -> frozenset[str]:
    return frozenset(item.question for item in _held_out(name))


@cache
def _reasoning_gym(name: str) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError(
            "the testbed's tasks are made by reasoning-gym: pip install 'expert-condenser[testbed]'"
        ) from error
    family = BY_NAME[name]
    return reasoning_gym.create_dataset(family.dataset, size=3 * _SPLIT_SIZE, seed=0, **family.options)
