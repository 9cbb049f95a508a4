"""`items.jsonl`: every answer of an evaluation, a line each, and the scores that are computed from them alone."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from statistics import mean
from typing import Any

from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.files import digest, json_object, read_text

ITEMS = "items.jsonl"
OPTIONAL = ("raw", "log_p", "forced")
_KINDS = {
    str: ("task", "id", "gold", "output"),
    int: ("sample", "tokens"),
    bool: ("ended", "correct"),
    list: ("prompt",),
}


@dataclass(frozen=True)
class Record:
    """One answer to one item: enough to score it again without a model."""

    task: str
    id: str
    sample: int
    prompt: list[dict[str, str]]
    gold: str
    output: str
    tokens: int
    ended: bool
    """Whether the model ended its answer; else it was cut at `max_new_tokens`."""
    extracted: str | None
    correct: bool
    raw: str | None = None
    """What is read in place of `output`, where that says less: with special tokens, and with the opening of thoughts
    that the prompt had already. Not in a file where it is None."""
    log_p: dict[str, list[float]] | None = None
    """In mode likelihood, of every option's `text` and `answer`, in nats. Not in a file where it is None."""
    forced: dict[str, Any] | None = None
    """In mode teacher_forced, of the reference: whether it is what greedy decoding writes (`exact`), its `nll` in nats
    and its `tokens`. Not in a file where it is None."""

    @property
    def text(self) -> str:
        """The text that is read for its answer."""
        return self.output if self.raw is None else self.raw

    @property
    def key(self) -> tuple[str, str, int]:
        """What is answered once."""
        return self.task, self.id, self.sample


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Add one line per record."""
    with path.open("a") as file:
        file.writelines(json.dumps(_row(record), ensure_ascii=False) + "\n" for record in records)


def _row(record: Record) -> dict[str, Any]:
    """All of a record but for what it does not have."""
    return {key: value for key, value in asdict(record).items() if value is not None or key not in OPTIONAL}


def read_records(path: Path) -> list[Record]:
    """All whole lines of `items.jsonl`; a last line that a crash cut short is dropped, from the file too.

    Raises `EvaluationError` on any other malformed line.
    """
    try:
        lines = read_text(path).split("\n") if path.exists() else []
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if lines and lines.pop():
        path.write_text("".join(f"{line}\n" for line in lines))
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_checked(Record(**json_object(line))))
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{path}, line {number}: every line is a record of an evaluation; {error}") from error
    return records


def _checked(record: Record) -> Record:
    """A record whose values are of their kinds; raises `TypeError`."""
    for kind, names in _KINDS.items():
        for name in names:
            if type(getattr(record, name)) is not kind:
                raise TypeError(f"{name} is of type {kind.__name__}; got {getattr(record, name)!r}")
    for name in ("extracted", "raw"):
        if not isinstance(getattr(record, name), str | None):
            raise TypeError(f"{name} is a text; got {getattr(record, name)!r}")
    return record


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that one of `k` answers drawn from `samples`, of which `correct` are right, is right.

    `1 - C(n - c, k) / C(n, k)`, the unbiased estimator of Chen et al., arXiv 2107.03374, Eq. 1.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise EvaluationError(f"0 <= correct <= samples and 1 <= k <= samples; got {correct}, {samples}, {k}")
    return 1 - comb(samples - correct, k) / comb(samples, k)


def unsigned(gold: str) -> str:
    """A gold answer as fingerprints have it: before 0.2, expressions lost their percent signs."""
    return gold.replace(r"\%", "")


def summarize(records: Sequence[Record], samples: int) -> dict[str, Any]:
    """One task's entry in `results.json`, from its records in item order (the samples of an item side by side).

    `accuracy` is the share of correct answers, over all samples; of several samples there are also `pass_at_k`,
    and instead of `correct_items` (a 0 or 1 per item) `correct_samples`, a number per item.
    """
    by_item = [records[start : start + samples] for start in range(0, len(records), samples)]
    counts = [sum(record.correct for record in group) for group in by_item]
    ks = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    sampled = {
        "samples": samples,
        "pass_at_k": {str(k): mean(pass_at_k(count, samples, k) for count in counts) for k in ks},
        "correct_samples": counts,
    }
    return {
        "n": len(by_item),
        "correct": sum(counts),
        "accuracy": sum(counts) / len(records),
        "extracted": sum(record.extracted is not None for record in records),
        "cut": sum(not record.ended for record in records),
        "items": digest([[record.id, record.prompt, unsigned(record.gold)] for record in records[::samples]]),
        **(sampled if samples > 1 else {"correct_items": "".join(str(count) for count in counts)}),
    }
