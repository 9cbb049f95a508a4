"""Exact-match accuracy on the testbed's families, with a record per item."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.evaluation.generate import Generation, ModelBackend, in_batches, rendered
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
    prompts = rendered([[{"role": "user", "content": item.question}] for _, item in asked], tokenizer)
    backend, generation, outputs = ModelBackend(model, tokenizer), Generation(), [""] * len(prompts)
    for batch in in_batches([len(prompt) for prompt in prompts], generation.batch_size):
        answers = backend.generate([prompts[i] for i in batch], max_new_tokens, generation, 0)
        for index, answer in zip(batch, answers, strict=True):
            outputs[index] = answer.text
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
