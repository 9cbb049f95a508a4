"""Evaluate a model on tasks: every answer on disk as soon as it is there, so that a crash costs one batch.

output_dir/
    eval.json       what is evaluated and how; an evaluation goes on only with the same
    items.jsonl     a line per answer
    results.json    accuracy, nll and throughput per task; written last
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.answers.thoughts import opened_in
from expert_condenser.evaluation.backends.base import Backend, SharedBackend
from expert_condenser.evaluation.choosing import MODE as LIKELIHOOD
from expert_condenser.evaluation.choosing import accuracies, check_choosing, choose, scoring
from expert_condenser.evaluation.day import day_of, on_the_day
from expert_condenser.evaluation.forcing import MODE as TEACHER_FORCED
from expert_condenser.evaluation.forcing import check_forcing, force, forcing, nll_of_items
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.harness_scores import harness_scores
from expert_condenser.evaluation.record import ITEMS, Record, append_records, read_records, summarize
from expert_condenser.evaluation.requests import Request, plan
from expert_condenser.evaluation.results import RESULTS, Results
from expert_condenser.evaluation.settings import GENERATE, GENERATING, Asking, settings_of, start_or_go_on
from expert_condenser.evaluation.tasks.task import LoadedTask
from expert_condenser.files import read_json

MODES = (GENERATE, LIKELIHOOD, TEACHER_FORCED)


def evaluate(
    backend: Backend,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    out: Path,
    generation: Generation,
    *,
    label: str | None = None,
    advance: Callable[[int], None] = lambda answers: None,
    asking: Asking = GENERATING,
) -> dict[str, Any]:
    """Answer every question that `out` has no answer to yet; returns the content of `results.json`.

    What is answered already is scored again, by the rules of today. `label` is what the results call the model;
    `advance` is called with the number of answers of every batch. `asking` is by generation, by likelihood (see
    `choosing`) or teacher-forced (see `forcing`), as on a day (see `day_of`). Raises `EvaluationError` where a question
    cannot be rendered, `out` holds another evaluation, or the mode is not for these tasks or this backend, before the
    backend is asked for anything.
    """
    asking = asking._replace(date=day_of(tokenizer, out, backend.identity["model"], asking.date))
    with on_the_day(tokenizer, asking.date):
        terms = settings_of(backend, tokenizer, tasks, generation, label, asking)
        return _evaluated(backend, tokenizer, tasks, out, generation, terms, advance, asking)


def _evaluated(
    backend: Backend,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    out: Path,
    generation: Generation,
    settings: dict[str, Any],
    advance: Callable[[int], None],
    asking: Asking,
) -> dict[str, Any]:
    kinds = _by_mode(tasks, asking)
    decoding = generation if len(kinds) == 1 else replace(generation, max_new_tokens=None)  # it is for the other tasks
    answering = {
        mode: _answering(mode, backend, tokenizer, own, generation if mode == GENERATE else decoding)
        for mode, own in kinds.items()
    }
    batches = [(mode, batch) for mode, own in kinds.items() for batch in plan(own, tokenizer, generation)]
    start_or_go_on(out, settings)
    by_name = {task.name: task for task in tasks}
    done = {record.key: scored(by_name[record.task], record) for record in read_records(out / ITEMS)}
    seconds, tokens = 0.0, 0
    missing = {number for number, (_, batch) in enumerate(batches) if not all(request.key in done for request in batch)}
    found_of = in_order(
        lambda number: answering[batches[number][0]](batches[number][1], number), sorted(missing), backend
    )
    for number, (_, batch) in enumerate(batches):
        if number in missing:
            start = time.perf_counter()
            records = [scored(by_name[record.task], record) for record in next(found_of)]
            seconds, tokens = seconds + time.perf_counter() - start, tokens + sum(r.tokens for r in records)
            append_records(out / ITEMS, [record for record in records if record.key not in done])
            done |= {record.key: record for record in records if record.key not in done}
        advance(len(batch))
    found = {task.name: {**_summary(task, done, generation, backend), **settings["tasks"][task.name]} for task in tasks}
    rate = {"seconds": round(seconds, 2), "new_tokens": tokens, "tokens_per_s": tokens / seconds if tokens else None}
    whole = {**settings, "tasks": found, "throughput": rate, "measures": dict(asking.measures)}
    Results(**whole).write(out / RESULTS)
    content: dict[str, Any] = read_json(out / RESULTS)
    return content


def in_order(answer: Callable[[int], list[Record]], numbers: Sequence[int], backend: Backend) -> Iterator[list[Record]]:
    """The answers to the batches of these numbers, in their order; a backend that can answers several at a time."""
    if not isinstance(backend, SharedBackend):
        yield from map(answer, numbers)
        return
    pool = ThreadPoolExecutor(backend.at_once)
    try:
        yield from pool.map(answer, numbers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who interrupts this ends the backend as well


def _by_mode(tasks: Sequence[LoadedTask], asking: Asking) -> dict[str, list[LoadedTask]]:
    found: dict[str, list[LoadedTask]] = {}
    for task in tasks:
        found.setdefault(asking.mode_of(task.name), []).append(task)
    return found


def check_mode(mode: str, tasks: Sequence[LoadedTask], generation: Generation) -> None:
    """Raise `EvaluationError` where a mode is unknown, or not for these tasks or these options of decoding."""
    if mode not in MODES:
        raise EvaluationError(f"a mode is one of {', '.join(MODES)}; got {mode!r}; correct it")
    if mode != GENERATE:
        {LIKELIHOOD: check_choosing, TEACHER_FORCED: check_forcing}[mode](tasks, generation)


def _answering(
    mode: str, backend: Backend, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[LoadedTask], generation: Generation
) -> Callable[[list[Request], int], list[Record]]:
    """What answers the batch of a number in this mode; raises `EvaluationError` where it cannot."""
    if mode == GENERATE:
        return lambda batch, number: _answer(backend, batch, generation, number)
    check_mode(mode, tasks, generation)
    if mode == TEACHER_FORCED:
        forced = forcing(backend)
        return lambda batch, number: force(forced, batch, generation.batch_size)
    able = scoring(backend)
    return lambda batch, number: choose(able, tokenizer, batch, generation.batch_size)


def _answer(backend: Backend, batch: list[Request], generation: Generation, number: int) -> list[Record]:
    prompts = [request.prompt for request in batch]
    answers = backend.generate(prompts, batch[0].max_new_tokens, generation, generation.seed + number)
    return [
        replace(request.record(answer.text, answer.tokens, ended=answer.ended), raw=_raw(request.prompt, answer))
        for request, answer in zip(batch, answers, strict=True)
    ]


def _raw(prompt: str, answer: Answer) -> str | None:
    """The text as the model goes on with the prompt, where it says more than the answer's text."""
    raw = opened_in(prompt) + (answer.text if answer.raw is None else answer.raw)
    return None if raw == answer.text else raw


def scored(task: LoadedTask, record: Record) -> Record:
    """The record with what its output states, and whether that is right."""
    if record.forced is not None:
        return replace(
            record, extracted=record.gold if record.forced["exact"] else None, correct=record.forced["exact"]
        )
    extracted = task.answer.extract(record.text)
    correct = extracted is not None and task.answer.equal(extracted, record.gold)
    return replace(record, extracted=extracted, correct=correct)


def _summary(task: LoadedTask, done: dict[Any, Record], generation: Generation, backend: Backend) -> dict[str, Any]:
    """A task's scores, with the nll of its reference answers: None where there are none, or the backend cannot tell."""
    keys = [(task.name, question.id, sample) for question in task.questions for sample in range(generation.samples)]
    records = [done[key] for key in keys]
    summary = {**summarize(records, generation.samples), **_by_other_rules(task, records)}
    if records and records[0].forced is not None:
        return {**summary, **nll_of_items(records)}
    referenced = [question for question in task.questions if question.reference]
    if not referenced:
        return {**summary, "nll": None}
    prompts, references = [q.prompt for q in referenced], [q.reference for q in referenced]
    return {**summary, "nll": backend.nll(prompts, references, generation.batch_size)}


def _by_other_rules(task: LoadedTask, records: Sequence[Record]) -> dict[str, Any]:
    """What stands beside the accuracy: by log-likelihoods, by lm-eval's rules, and what compared expressions."""
    if records and records[0].log_p is not None:
        return accuracies(task, records)
    harness = harness_scores(task.name, records)
    compared = {"comparison": task.answer.comparison()} if task.answer.comparison else {}
    return {**compared, **({"lm_eval": harness} if harness else {})}
