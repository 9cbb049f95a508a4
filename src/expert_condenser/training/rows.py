"""The data of a run: every row rendered by the model's chat template and checked, before any weight is loaded."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.config import read_config
from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
from expert_condenser.data.examples import Examples, Reading, build_examples
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.report import DataReport
from expert_condenser.data.stops import generation_config_of, stop_tokens, stops_of_model
from expert_condenser.data.templates import template_of, with_defaults
from expert_condenser.errors import TrainingError
from expert_condenser.training.recipe import Recipe

logger = get_logger(__name__)


@dataclass(frozen=True)
class TrainingRows:
    """The tokenizer with its template, the examples to train on and those for `eval_loss`, and the facts about them."""

    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    evaluation: Dataset | None
    report: DataReport
    stops: list[int]


def load_rows_of(recipe: Recipe, date: datetime.date | None = None) -> TrainingRows:
    """Read and check all rows of a recipe, rendered as on `date` (today).

    Raises `DataError` or `TrainingError` before any weight is loaded.
    """
    tokenizer = tokenizer_of(recipe)
    stops = stops_of_model(resolve_model(recipe.run.model), tokenizer, recipe.run.revision)
    reading = reading_of(recipe, date or datetime.date.today())
    train = build_examples(sources_of(recipe.data.data), tokenizer, stops, reading)
    _say(train.report)
    evaluation = None
    if recipe.data.eval_data is not None:
        of_evaluation = replace(reading, split=recipe.data.eval_split, limit=None)
        evaluation = build_examples(sources_of(recipe.data.eval_data), tokenizer, stops, of_evaluation)
    for source, each in ((recipe.data.data, train), (recipe.data.eval_data, evaluation)):
        if each is not None:
            for warning in check_lengths(str(source), each.report, reading):
                logger.warning(warning)
            check_ids(recipe, tokenizer, each.dataset)
    return TrainingRows(
        tokenizer, _cut(train, recipe), None if evaluation is None else _cut(evaluation, recipe), train.report, stops
    )


def _say(report: DataReport) -> None:
    """Which files are read, and what of them is not used: a line each."""
    for split, files in report.files.items():
        for file in files:
            logger.info(f"data: {file.path}, {file.rows:,} rows ({split})")
    if report.unused_columns:
        logger.info(f"columns that are not used: {', '.join(report.unused_columns)}")
    for warning in report.warnings:
        logger.warning(warning)


def reading_of(recipe: Recipe, date: datetime.date) -> Reading:
    """How the rows of a recipe are read."""
    data, trainer = recipe.data, recipe.trainer
    return Reading(
        split=data.split,
        data_format=data.data_format,
        answer_style=data.answer_style,
        limit=data.limit,
        ignore=tuple(data.ignore),
        on_bad_row=data.on_bad_row,
        loss_on=recipe.loss_on,
        end_of_turn=data.end_of_turn or "",
        date=date,
        max_length=trainer.max_length,
        keep_end=trainer.truncation_mode == "keep_end",
        seed=trainer.seed if trainer.data_seed is None else trainer.data_seed,
    )


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The model's tokenizer; `chat_template_path` (a Jinja file, or another tokenizer) sets its template.

    The template takes `chat_template_kwargs` as its defaults, so that whoever asks the result asks what it was trained
    on; `eos_token` is its end of sequence.
    """
    tokenizer = load_tokenizer(resolve_model(recipe.run.model), revision=recipe.run.revision)
    path = recipe.trainer.chat_template_path
    if path is not None:
        file = Path(path)
        tokenizer.chat_template = file.read_text() if file.is_file() else load_tokenizer(path).chat_template
    options = recipe.data.template_options()
    if options:
        tokenizer.chat_template = with_defaults(template_of(tokenizer), options)
    end = recipe.trainer.eos_token
    if end is not None:
        if end not in tokenizer.get_vocab():
            raise TrainingError(f"eos_token is a token of the tokenizer, and {end!r} is none; correct it")
        tokenizer.eos_token = end
    return tokenizer


def check_lengths(source: str, report: DataReport, reading: Reading) -> list[str]:
    """What truncation costs, in words; raises `TrainingError` where it leaves no answer to learn from."""
    lengths, limit = report.lengths, reading.max_length
    if report.examples and lengths.without_answer == report.examples:
        raise TrainingError(
            f"{source}: every prompt is as long as max_length = {limit} (the longest row has {lengths.max} tokens), so "
            "no answer is left to learn from; raise max_length"
        )
    if not lengths.truncated:
        return []
    return [
        f"{source}: max_length = {limit} cuts {lengths.truncated} of {report.examples} rows, {lengths.without_answer} "
        "of them before their answer begins"
    ]


def check_ids(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    """Raise `TrainingError` where a token is outside of the model's embedding, or there is no end of sequence."""
    revision: dict[str, Any] = {} if recipe.run.revision is None else {"revision": recipe.run.revision}
    path = resolve_model(recipe.run.model)
    generation = generation_config_of(path, recipe.run.revision)
    size = read_config(path, **revision).get_text_config().vocab_size
    if tokenizer.eos_token_id is None:
        raise TrainingError("the tokenizer needs an end of sequence, and it has none; set eos_token")
    named = {"pad_token": tokenizer.pad_token_id, "eos_token": tokenizer.eos_token_id}
    named["pad_token_id of the generation config"] = getattr(generation, "pad_token_id", None)
    named["eos_token_id of the generation config"] = max(stop_tokens(tokenizer, generation))
    named["a row"] = max((max(ids) for ids in dataset["input_ids"]), default=None)
    wrong = [f"{name} has id {token}" for name, token in named.items() if token is not None and token >= size]
    if wrong:
        raise TrainingError(
            f"token ids are below {size}, the size of the model's embedding, but {', '.join(wrong)}: the tokenizer is "
            "not of this model; name its own"
        )


def _cut(examples: Examples, recipe: Recipe) -> Dataset:
    """The examples, cut here where TRL does not."""
    limit = recipe.trainer.max_length
    if limit is None or recipe.max_length is not None:
        return examples.dataset
    kept = slice(-limit, None) if recipe.trainer.truncation_mode == "keep_end" else slice(limit)
    cut = examples.dataset.map(lambda row: {name: row[name][kept] for name in ("input_ids", "labels")})
    return cut.filter(lambda row: any(label != -100 for label in row["labels"]))
