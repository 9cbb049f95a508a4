"""What the testbed's bases are pretrained on: documents of the task families, packed into rows."""

import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from expert_condenser.data.procedural.facts import fact_question, fact_statement
from expert_condenser.data.procedural.families import FACTS, Item, draw


class Row(NamedTuple):
    """The tokens of a row; every token's family, and the number of its document in the row."""

    ids: list[int]
    families: list[str]
    documents: list[int]


def packed_rows(
    seed: str, tokenizer: PreTrainedTokenizerFast, rows: int, row_length: int, mixture: Mapping[str, float]
) -> Iterator[Row]:
    """The rows of one step, a pure function of `seed`; the last document of a row is cut."""
    rng = random.Random(seed)
    names, weights = zip(*mixture.items(), strict=True)
    for _ in range(rows):
        row = Row([], [], [])
        for number in range(row_length):
            name = rng.choices(names, weights)[0]
            ids = tokenizer.encode(_text(_document(name, rng), tokenizer))
            row.ids.extend(ids)
            row.families.extend([name] * len(ids))
            row.documents.extend([number] * len(ids))
            if len(row.ids) >= row_length:
                break
        yield Row(row.ids[:row_length], row.families[:row_length], row.documents[:row_length])


def _document(name: str, rng: random.Random) -> Item:
    """An item of a family; half of the facts are told instead of asked for."""
    if name != FACTS.name:
        return draw(name, "pretrain", rng)
    return Item("", fact_statement(rng)) if rng.random() < 0.5 else Item(*fact_question(rng))


def _text(item: Item, tokenizer: PreTrainedTokenizerFast) -> str:
    question = [{"role": "user", "content": item.question}] if item.question else []
    turns = [*question, {"role": "assistant", "content": item.answer}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    return text
