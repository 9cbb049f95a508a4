"""Answers by log-likelihood: not what a model writes, but which option of a question it finds most likely.

Two texts are asked for each option, both where training's template puts the answer: the option's own text, as published
tables have it, and the whole sentence that training writes ("the correct answer is solution1").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.base import Backend, ScoringBackend
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.prompts import continued
from expert_condenser.evaluation.record import Record
from expert_condenser.evaluation.requests import Request
from expert_condenser.evaluation.tasks.options import KINDS, options_of
from expert_condenser.evaluation.tasks.task import LoadedTask

MODE = "likelihood"


def scoring(backend: Backend) -> ScoringBackend:
    """The backend, if it can tell log-likelihoods; raises `EvaluationError` if it only generates."""
    if not isinstance(backend, ScoringBackend):
        raise EvaluationError(
            f"mode {MODE} needs log-likelihoods of given texts, which the backend {backend.identity['backend']} does "
            "not tell; take the backend transformers"
        )
    return backend


def check_choosing(tasks: Sequence[LoadedTask], generation: Generation) -> None:
    """Raise `EvaluationError` on questions without options, and on options of decoding, which would have no effect."""
    without = [task.name for task in tasks if task.answer not in KINDS]
    if without:
        raise EvaluationError(
            f"mode {MODE} asks for tasks whose questions list options in words, the commonsense sets; got "
            f"{', '.join(without)}; leave them out, or generate"
        )
    generation.check_nothing_is_decoded(MODE)
    for task in tasks:
        for question in task.questions:
            options_of(task, question)


def choose(
    backend: ScoringBackend, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Request], batch_size: int
) -> list[Record]:
    """A record for each request: its output is the sentence of the option with the most likely text."""
    options = [options_of(request.task, request.question) for request in batch]
    pairs = [
        continued(request.question.prompt, text, tokenizer)
        for request, own in zip(batch, options, strict=True)
        for text in (*(option.text for option in own), *(option.answer for option in own))
    ]
    log_p = iter(backend.log_likelihoods(pairs, batch_size))
    records = []
    for request, own in zip(batch, options, strict=True):
        texts, answers = ([next(log_p) for _ in own] for _ in range(2))
        chosen = own[first_best(texts)].answer
        records.append(replace(request.record(chosen, 0, ended=True), log_p={"text": texts, "answer": answers}))
    return records


def accuracies(task: LoadedTask, records: Sequence[Record]) -> dict[str, Any]:
    """The accuracy by each of three rules, over a task's records in the order of its questions.

    `acc` takes the option with the most likely text, `acc_norm` that with the most likely text per character, both as
    lm-eval names and computes them, and `acc_answer` that with the most likely sentence of training's.
    """
    rules: dict[str, Callable[[dict[str, list[float]], list[int]], list[float]]] = {
        "acc": lambda log_p, lengths: log_p["text"],
        "acc_norm": lambda log_p, lengths: [p / n for p, n in zip(log_p["text"], lengths, strict=True)],
        "acc_answer": lambda log_p, lengths: log_p["answer"],
    }
    hits = dict.fromkeys(rules, 0)
    for question, record in zip(task.questions, records, strict=True):
        options = options_of(task, question)
        lengths = [len(option.text) for option in options]
        for name, rule in rules.items():
            assert record.log_p is not None
            hits[name] += options[first_best(rule(record.log_p, lengths))].word == question.gold
    return {name: count / len(records) for name, count in hits.items()}


def first_best(values: Sequence[float]) -> int:
    """Where the greatest value stands, the first of equal ones."""
    return max(range(len(values)), key=lambda index: values[index])
