"""Training data as TRL's conversational `prompt` and `completion`, so that the loss is on answers."""

from collections.abc import Iterable, Iterator

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.formats import Message, Row, RowFormat, choose_format
from expert_condenser.data.sources import Part, read_parts
from expert_condenser.data.templates import check_template
from expert_condenser.data.tokens import on_disk
from expert_condenser.errors import DataError


def build_dataset(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    split: str = "train",
    data_format: str = "auto",
    answer_style: str = "auto",
    limit: int | None = None,
) -> Dataset:
    """`load_rows`, checked against the tokenizer's chat template."""
    if tokenizer is None:
        raise DataError("training data needs a tokenizer with a chat template, but there is none; pass the model's")
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer must have a chat template, but it has none; set tokenizer.chat_template, "
            "and keep the same one for evaluation"
        )
    dataset = load_rows(source, split, data_format=data_format, answer_style=answer_style, limit=limit)
    check_template(dataset[0]["prompt"], dataset[0]["completion"], tokenizer)
    return dataset


def load_rows(
    source: str,
    split: str = "train",
    *,
    data_format: str = "auto",
    answer_style: str = "auto",
    limit: int | None = None,
) -> Dataset:
    """The source's rows as `prompt` and `completion` messages; `limit` keeps the first rows only."""
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, but it is {limit}; leave it out to take every row")
    columns: dict[str, list[list[Message]]] = {"prompt": [], "completion": []}
    for part in read_parts(source, split):
        chosen = _choose_format(part, data_format, answer_style)
        left = None if limit is None else limit - len(columns["prompt"])
        for prompt, completion in _convert(part, chosen, answer_style, left):
            columns["prompt"].append(prompt)
            columns["completion"].append(completion)
        if len(columns["prompt"]) == limit:
            break
    return on_disk(Dataset.from_dict(columns))


def _choose_format(part: Part, data_format: str, answer_style: str) -> RowFormat:
    try:
        return choose_format(part.columns, data_format, answer_style)
    except DataError as error:
        raise DataError(f"{part.name}: {error}") from error


def _convert(
    part: Part, chosen: RowFormat, answer_style: str, limit: int | None
) -> Iterator[tuple[list[Message], list[Message]]]:
    rows: Iterable[Row] = part.rows
    if isinstance(part.rows, Dataset):  # other columns may be images or audio, costly to decode
        rows = part.rows.select_columns([c for c in chosen.columns + chosen.optional if c in part.columns])
    for number, row in enumerate(rows, start=1):
        if limit is not None and number > limit:
            return
        try:
            prompt, completion = chosen.convert(row, answer_style)
        except DataError as error:
            raise DataError(f"{part.name}, row {number}: {error}") from error
        if not completion[0]["content"].strip():
            raise DataError(f"{part.name}, row {number}: the completion must not be empty, but it is; drop the row")
        yield prompt, completion
