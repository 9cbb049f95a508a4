"""Examples: the token ids and labels of all rows, each checked, with the facts about them."""

import datetime
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.cache import kept
from expert_condenser.data.conversation import Conversation
from expert_condenser.data.mixture import Source, counts_of, order_of
from expert_condenser.data.rendering import Passage, Renderer
from expert_condenser.data.report import DataReport, Lengths, RefusedRow, Sample
from expert_condenser.data.rows import Rows, check_refused, load_rows
from expert_condenser.data.stops import StopCheck
from expert_condenser.data.templates import digest_of, reads_clock, template_of
from expert_condenser.data.tokens import IGNORED, Tokens, encode
from expert_condenser.errors import DataError

_CHUNK = 256
"""Rows that are tokenized in one call."""


@dataclass(frozen=True)
class Reading:
    """How rows are read and rendered; the same for every source of a run."""

    split: str = "train"
    data_format: str = "auto"
    answer_style: str = "auto"
    limit: int | None = None
    ignore: tuple[str, ...] = ()
    on_bad_row: str = "error"
    loss_on: str = "all"
    end_of_turn: str = ""
    date: datetime.date | None = None
    max_length: int | None = None
    keep_end: bool = False
    """Whether rows are cut at their beginning (`truncation_mode: keep_end`)."""
    survey: bool = False
    """Whether rows that cannot be trained are only counted, however many there are."""
    seed: int = 0
    """Of what a mixture draws."""


class Examples(NamedTuple):
    """A data set of `input_ids` and `labels`, and the facts about it."""

    dataset: Dataset
    report: DataReport


def build_examples(
    sources: Sequence[Source], tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], reading: Reading
) -> Examples:
    """Read, render, tokenize and check every row. Raises `DataError` where one cannot be trained, by `on_bad_row`."""
    renderer = Renderer(tokenizer, reading.date, reading.loss_on, reading.end_of_turn)
    rows = [_load(source, reading) for source in sources]
    key = [
        [vars(row) for each in rows for row in each.conversations],
        [list(row) for each in rows for row in each.refused],
        [(source.weight, len(each.conversations)) for source, each in zip(sources, rows, strict=True)],
        (renderer.template, reading.loss_on, reading.end_of_turn, reading.limit, reading.seed),
        (reading.on_bad_row, reading.survey),
        (digest_of_tokenizer(tokenizer), list(stops)),
    ]
    dataset, found = kept(key, lambda: _compute(sources, rows, renderer, StopCheck(tokenizer, stops), reading))
    return Examples(dataset, _report(rows, dataset, found, renderer, reading))


def _load(source: Source, reading: Reading) -> Rows:
    return load_rows(
        source.path,
        source.split or reading.split,
        data_format=source.data_format or reading.data_format,
        answer_style=source.answer_style or reading.answer_style,
        limit=reading.limit if source.weight is None else None,
        ignore=reading.ignore,
        on_bad_row=reading.on_bad_row,
        survey=reading.survey,
    )


def _compute(
    sources: Sequence[Source], rows: Sequence[Rows], renderer: Renderer, check: StopCheck, reading: Reading
) -> tuple[Dataset, dict[str, Any]]:
    """The examples of every source, as many as its share; a row that is skipped is followed by the next one."""
    refused = [row for each in rows for row in each.refused]
    groups: list[list[Tokens]] = []
    undrawn: list[str] = []
    weights = [source.weight for source in sources]
    sizes = [len(each.conversations) for each in rows]
    for at, (source, count) in enumerate(zip(sources, counts_of(sizes, weights, reading.limit), strict=True)):
        order = range(sizes[at]) if source.weight is None else order_of(sizes[at], reading.seed, at)
        found = _drawn([rows[at].conversations[index] for index in order], count, renderer, check, refused)
        if source.weight is not None and len(found) < count and not reading.survey:
            check_refused(refused if reading.on_bad_row == "error" else [])
            raise DataError(f"the mixture takes {count} rows of {source.path}, but only {len(found)} can be trained")
        if source.weight and not count:
            undrawn.append(
                f"the mixture takes no row of {source.path}: its weight, {source.weight}, is less than one row"
            )
        groups += found
    if not reading.survey and (reading.on_bad_row == "error" or not groups):
        check_refused(refused)
    if weights[0] is not None:
        groups = [groups[at] for at in order_of(len(groups), reading.seed, -1)]
    examples = [tokens for group in groups for tokens in group]
    ids = [np.asarray(tokens.ids, np.int32) for tokens in examples]
    labels = [np.asarray(_labels(tokens, reading), np.int32) for tokens in examples]
    digest = sha256()
    for each in (array for pair in zip(ids, labels, strict=True) for array in pair):
        digest.update(np.int64(len(each)).tobytes() + each.tobytes())
    facts = {
        "used": len(groups),
        "refused": [list(row) for row in refused],
        "undrawn": undrawn,
        "digest": digest.hexdigest()[:16],
        "sizes": [len(tokens.ids) for tokens in examples],
        "starts": [0 if reading.loss_on == "everything" else tokens.answers[0][0] for tokens in examples],
    }
    return Dataset.from_dict({"input_ids": ids, "labels": labels}), facts


def _labels(tokens: Tokens, reading: Reading) -> list[int]:
    return tokens.ids if reading.loss_on == "everything" else tokens.labels


def _drawn(
    rows: Sequence[Conversation], count: int, renderer: Renderer, check: StopCheck, refused: list[RefusedRow]
) -> list[list[Tokens]]:
    """The examples of the first `count` rows that can be trained; the reasons of those that cannot go to `refused`."""
    groups: list[list[Tokens]] = []
    start = 0
    while len(groups) < count and start < len(rows):
        chunk = rows[start : start + min(_CHUNK, count - len(groups))]
        for row, found in zip(chunk, _of_chunk(chunk, renderer, check), strict=True):
            if isinstance(found, DataError):
                file, _, place = row.origin.rpartition(", ")
                refused.append(RefusedRow(file, int(place.rpartition(" ")[2]), str(found), row.origin))
            else:
                groups.append(found)
        start += len(chunk)
    return groups


def _of_chunk(rows: Sequence[Conversation], renderer: Renderer, check: StopCheck) -> Iterator[list[Tokens] | DataError]:
    """The examples of each row, or why it cannot be trained."""
    rendered = [_passages(row, renderer) for row in rows]
    passages = [passage for found in rendered if isinstance(found, list) for passage in found]
    encoded = encode(passages, renderer.tokenizer)
    for row, found in zip(rows, rendered, strict=True):
        if isinstance(found, DataError):
            yield found
            continue
        results = [(passage, next(encoded)) for passage in found]
        try:
            yield [tokens for passage, result in results for tokens in _checked(row, passage, result, renderer, check)]
        except DataError as error:
            yield error


def _passages(row: Conversation, renderer: Renderer) -> list[Passage] | DataError:
    try:
        return renderer.passages(row)
    except DataError as error:
        return error


def _checked(
    row: Conversation, passage: Passage, found: list[Tokens] | DataError, renderer: Renderer, check: StopCheck
) -> list[Tokens]:
    if isinstance(found, DataError):
        raise found
    marks = renderer.marked(row, passage)
    examples = [tokens.narrowed(*marks) for tokens in found] if marks is not None else found
    for tokens in examples:
        check.check(tokens)
    return examples


def _report(
    rows: Sequence[Rows], dataset: Dataset, found: Mapping[str, Any], renderer: Renderer, reading: Reading
) -> DataReport:
    refused = [RefusedRow(*each) for each in found["refused"]]
    files: dict[str, list[Any]] = {}
    for each in rows:
        files.setdefault(each.split, []).extend(each.files)
    clock = reading.date is not None and reads_clock(template_of(renderer.tokenizer))
    return DataReport(
        files=files,
        used=found["used"],
        examples=len(dataset),
        refused=refused,
        unused_columns=list(dict.fromkeys(name for each in rows for name in each.unused_columns)),
        sample=_sample(dataset[0], renderer.tokenizer) if len(dataset) else None,
        lengths=_lengths(found["sizes"], found["starts"], reading),
        digest=found["digest"],
        template=digest_of(renderer.template),
        date=reading.date.isoformat() if clock and reading.date is not None else None,
        warnings=[*found["undrawn"], *_warnings(refused, found["used"], len(dataset))],
    )


def _sample(example: Mapping[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> Sample:
    """The first example, up to the end of its first answer."""
    ids, labels = example["input_ids"], example["labels"]
    start = next(at for at, label in enumerate(labels) if label != IGNORED)
    end = next((at for at in range(start, len(labels)) if labels[at] == IGNORED), len(labels))
    return Sample(tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:end]), ids[:start], ids[start:end])


def _lengths(sizes: Sequence[int], starts: Sequence[int], reading: Reading) -> Lengths:
    """Lengths in tokens, and what a limit costs; `starts` are the positions of what is learnt first."""
    if not sizes:
        return Lengths(0.0, 0, 0, 0)
    limit = reading.max_length or max(sizes)
    lost = 0 if reading.keep_end else sum(start >= limit for start in starts)
    mean = sum(sizes) / len(sizes)
    return Lengths(round(mean, 1), max(sizes), sum(size > limit for size in sizes), lost)


def _warnings(refused: Collection[RefusedRow], used: int, examples: int) -> list[str]:
    said = []
    if refused:
        said.append(f"{len(refused)} rows cannot be trained, the first: {next(iter(refused))}")
    if examples > used:
        said.append(
            f"the chat template rewrites earlier turns: {used} conversations make {examples} examples, one for each "
            "answer whose context it rewrites"
        )
    return said


def digest_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What tells two tokenizers apart, but for their chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return digest_of(rules + json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str))
