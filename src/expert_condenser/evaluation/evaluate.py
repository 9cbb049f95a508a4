"""Evaluate a model on tasks: every answer on disk as soon as it is there, so that a crash costs one batch.

output_dir/
    eval.json       what is evaluated and how; an evaluation goes on only with the same
    items.jsonl     a line per answer
    results.json    accuracy, nll and throughput per task; written last
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.transformers_backend import Backend, Generation, in_batches, rendered
from expert_condenser.evaluation.likelihood import reference_nll
from expert_condenser.evaluation.record import (
    ITEMS,
    RESULTS,
    SETTINGS,
    Record,
    append_records,
    read_records,
    summarize,
    write_results,
)
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from expert_condenser.files import digest, read_json, write_json


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
    settings: dict[str, Any],
    nll_model: Any = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Answer every question that `out` has no answer to yet; returns the content of `results.json`.

    `settings` are those of `settings_of`. What is answered already is scored again, by the rules of today. `nll_model`,
    a loaded model, adds the nll of the reference answers. Raises `EvaluationError` where `out` holds another
    evaluation.
    """
    start_or_go_on(out, settings)
    batches = plan(tasks, tokenizer, generation)
    by_name = {task.name: task for task in tasks}
    done = {record.key: scored(by_name[record.task], record) for record in read_records(out / ITEMS)}
    seconds, tokens = 0.0, 0
    with _progress(progress) as bar:
        total = sum(map(len, batches))
        shown = bar.add_task("answers", total=total)
        for number, batch in enumerate(batches):
            if not all(request.key in done for request in batch):
                start = time.perf_counter()
                records = _answer(backend, batch, generation, number)
                seconds, tokens = seconds + time.perf_counter() - start, tokens + sum(r.tokens for r in records)
                append_records(out / ITEMS, [record for record in records if record.key not in done])
                done |= {record.key: record for record in records if record.key not in done}
            bar.advance(shown, len(batch))
    summaries = {task.name: _summary(task, done, generation, nll_model, tokenizer) for task in tasks}
    throughput = {
        "seconds": round(seconds, 2),
        "new_tokens": tokens,
        "tokens_per_s": tokens / seconds if tokens else None,
    }
    return write_results(out, {**settings, "throughput": throughput}, summaries)


def settings_of(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    generation: Generation,
    model_name: str,
    **how_computed: str,
) -> dict[str, Any]:
    """What decides every answer; `prompts` is the fingerprint of template and decoding, not of the items.

    `how_computed` is added to `generation`, such as the dtype. Of a local model, size and time of the weights are kept,
    so that the answers of a model that was since replaced are not taken for those of the new one.
    """
    how = {key: value for key, value in asdict(generation).items() if key != "batch_size"}
    limits = {task.name: generation.max_new_tokens or task.max_new_tokens for task in tasks}
    return {
        "model": model_name,
        "prompts": digest([tokenizer.chat_template, how, limits]),
        "generation": {**asdict(generation), **how_computed},
        "questions": fingerprints(tasks),
        "weights": _weights(Path(model_name)),
    }


def _weights(folder: Path) -> str | None:
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(stats) if stats else None


def fingerprints(tasks: Sequence[LoadedTask]) -> dict[str, str]:
    """Of the questions of every task, with their gold and reference answers."""
    return {task.name: digest([asdict(question) for question in task.questions]) for task in tasks}


def start_or_go_on(out: Path, settings: dict[str, Any]) -> None:
    """Write `eval.json`, or check that it says the same; raises `EvaluationError` where it does not."""
    path = out / SETTINGS
    if not path.exists():
        if (out / ITEMS).exists() or (out / RESULTS).exists():
            raise EvaluationError(f"{out} holds answers without {SETTINGS}, which says to what; name another folder")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    found = read_json(path)
    differing = [key for key in {**found, **settings} if found.get(key) != settings.get(key)]
    if differing:
        rows = "; ".join(f"{key}: {found.get(key)!r} there, {settings.get(key)!r} asked for" for key in differing)
        raise EvaluationError(f"{out} holds another evaluation ({rows}); name another folder, or delete this one")


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


def _summary(
    task: LoadedTask, done: dict[Any, Record], generation: Generation, model: Any, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    keys = [(task.name, question.id, sample) for question in task.questions for sample in range(generation.samples)]
    summary = summarize([done[key] for key in keys], generation.samples)
    referenced = [question for question in task.questions if question.reference]
    if model is None or not referenced:
        return {**summary, "nll": None}
    prompts, references = [q.prompt for q in referenced], [q.reference for q in referenced]
    nll = reference_nll(model, tokenizer, prompts, references, batch_size=generation.batch_size)
    return {**summary, "nll": nll}


def _progress(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        disable=not shown,
    )
