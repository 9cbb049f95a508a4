"""Evaluate a model on tasks: every answer on disk as soon as it is there, so that a crash costs one batch.

output_dir/
    eval.json       what is evaluated and how; an evaluation goes on only with the same
    items.jsonl     a line per answer
    results.json    accuracy, nll and throughput per task; written last
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from expert_condenser.evaluation.backends.base import Backend
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.prompts import in_batches, rendered
from expert_condenser.evaluation.record import ITEMS, Record, append_records, read_records, summarize
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.evaluation.settings import settings_of, start_or_go_on
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from expert_condenser.files import read_json


class Request(NamedTuple):
    """One answer to generate."""

    task: LoadedTask
    question: Question
    sample: int
    prompt: str
    max_new_tokens: int

    @property
    def key(self) -> tuple[str, str, int]:
        """As `Record.key`."""
        return self.task.name, self.question.id, self.sample


def evaluate(
    backend: Backend,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    out: Path,
    generation: Generation,
    *,
    label: str | None = None,
    advance: Callable[[int], None] = lambda answers: None,
) -> dict[str, Any]:
    """Answer every question that `out` has no answer to yet; returns the content of `results.json`.

    What is answered already is scored again, by the rules of today. `label` is what the results call the model;
    `advance` is called with the number of answers of every batch. Raises `EvaluationError` where a question cannot be
    rendered, or `out` holds another evaluation, before the backend is asked for anything.
    """
    batches = plan(tasks, tokenizer, generation)
    settings = settings_of(backend, tokenizer, tasks, generation, label)
    start_or_go_on(out, settings)
    by_name = {task.name: task for task in tasks}
    done = {record.key: scored(by_name[record.task], record) for record in read_records(out / ITEMS)}
    seconds, tokens = 0.0, 0
    for number, batch in enumerate(batches):
        if not all(request.key in done for request in batch):
            start = time.perf_counter()
            records = _answer(backend, batch, generation, number)
            seconds, tokens = seconds + time.perf_counter() - start, tokens + sum(r.tokens for r in records)
            append_records(out / ITEMS, [record for record in records if record.key not in done])
            done |= {record.key: record for record in records if record.key not in done}
        advance(len(batch))
    found = {task.name: {**_summary(task, done, generation, backend), **settings["tasks"][task.name]} for task in tasks}
    throughput = {
        "seconds": round(seconds, 2),
        "new_tokens": tokens,
        "tokens_per_s": tokens / seconds if tokens else None,
    }
    Results(**{**settings, "tasks": found, "throughput": throughput}).write(out / RESULTS)
    content: dict[str, Any] = read_json(out / RESULTS)
    return content


def plan(
    tasks: Sequence[LoadedTask], tokenizer: PreTrainedTokenizerBase, generation: Generation
) -> list[list[Request]]:
    """All requests in batches, the same ones whatever is done already, so that a resumed one samples the same."""
    requests = []
    for task in tasks:
        limit = generation.max_new_tokens or task.max_new_tokens
        prompts = rendered([question.prompt for question in task.questions], tokenizer)
        for question, prompt in zip(task.questions, prompts, strict=True):
            requests += [Request(task, question, sample, prompt, limit) for sample in range(generation.samples)]
    batches = []
    requests.sort(key=lambda request: request.max_new_tokens)
    for _, group in groupby(requests, key=lambda request: request.max_new_tokens):
        members = list(group)
        lengths = [len(ids) for ids in tokenizer([m.prompt for m in members], add_special_tokens=False)["input_ids"]]
        batches += [[members[i] for i in batch] for batch in in_batches(lengths, generation.batch_size)]
    return batches


def _answer(backend: Backend, batch: list[Request], generation: Generation, number: int) -> list[Record]:
    prompts = [request.prompt for request in batch]
    answers = backend.generate(prompts, batch[0].max_new_tokens, generation, generation.seed + number)
    return [
        scored(
            request.task,
            Record(
                task=request.task.name,
                id=request.question.id,
                sample=request.sample,
                prompt=[dict(turn) for turn in request.question.prompt],
                gold=request.question.gold,
                output=answer.text,
                tokens=answer.tokens,
                ended=answer.ended,
                extracted=None,
                correct=False,
            ),
        )
        for request, answer in zip(batch, answers, strict=True)
    ]


def scored(task: LoadedTask, record: Record) -> Record:
    """The record with what its output states, and whether that is right."""
    extracted = task.answer.extract(record.output)
    correct = extracted is not None and task.answer.equal(extracted, record.gold)
    return replace(record, extracted=extracted, correct=correct)


def _summary(task: LoadedTask, done: dict[Any, Record], generation: Generation, backend: Backend) -> dict[str, Any]:
    """A task's scores, with the nll of its reference answers: None where there are none, or the backend cannot tell."""
    keys = [(task.name, question.id, sample) for question in task.questions for sample in range(generation.samples)]
    summary = summarize([done[key] for key in keys], generation.samples)
    referenced = [question for question in task.questions if question.reference]
    if not referenced:
        return {**summary, "nll": None}
    prompts, references = [q.prompt for q in referenced], [q.reference for q in referenced]
    return {**summary, "nll": backend.nll(prompts, references, generation.batch_size)}
