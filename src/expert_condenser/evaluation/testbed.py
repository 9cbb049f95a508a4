"""Exact-match accuracy on the testbed's families, with a record per item."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.evaluation.generate import generate
from expert_condenser.testbed.families import Split, items


@dataclass(frozen=True)
class Record:
    """One answered item: enough to score it again without a model."""

    family: str
    question: str
    gold: str
    output: str
    correct: bool


def final_answer(text: str) -> str:
    """What an answer states: the text after its last `####`, or all of it, without outer white space."""
    return text.rpartition("####")[2].strip()


def evaluate_families(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    families: Sequence[str],
    *,
    count: int,
    split: Split = "test",
    max_new_tokens: int = 64,
) -> list[Record]:
    """The model's answers to the first `count` items of every family."""
    asked = [(name, item) for name in families for item in items(name, split, count)]
    outputs = generate(model, tokenizer, [item.question for _, item in asked], max_new_tokens=max_new_tokens)
    return [
        Record(name, item.question, item.answer, output, final_answer(output) == final_answer(item.answer))
        for (name, item), output in zip(asked, outputs, strict=True)
    ]


def accuracies(records: Sequence[Record]) -> dict[str, float]:
    """Share of correct answers per family."""
    names = dict.fromkeys(record.family for record in records)
    by_family = {name: [r.correct for r in records if r.family == name] for name in names}
    return {name: sum(correct) / len(correct) for name, correct in by_family.items()}


def as_results(records: Sequence[Record]) -> dict[str, Any]:
    """The content of `results.json`: accuracy per family and every item."""
    return {"accuracy": accuracies(records), "items": [asdict(record) for record in records]}
