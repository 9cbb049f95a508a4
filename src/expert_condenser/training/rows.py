"""The data of a run: rows rendered by the model's chat template, and what truncation costs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.load import load_tokenizer, resolve_model
from expert_condenser.data.rows import build_dataset
from expert_condenser.data.tokens import length_report
from expert_condenser.errors import TrainingError
from expert_condenser.training.recipe import Recipe

logger = get_logger(__name__)


@dataclass(frozen=True)
class TrainingRows:
    """The tokenizer with its template, the rows to train on, and those for `eval_loss`."""

    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    evaluation: Dataset | None


def load_rows_of(recipe: Recipe) -> TrainingRows:
    """Read and check all rows of a recipe. Raises `DataError` or `TrainingError` before any weight is loaded."""
    tokenizer, data = tokenizer_of(recipe), recipe.data
    train = _dataset(recipe, tokenizer, data.data, data.split, data.limit)
    if data.eval_data is None:
        return TrainingRows(tokenizer, train, None)
    return TrainingRows(tokenizer, train, _dataset(recipe, tokenizer, data.eval_data, data.eval_split, None))


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The model's tokenizer; `chat_template_path` (a Jinja file, or another tokenizer) sets its template."""
    tokenizer = load_tokenizer(resolve_model(recipe.run.model), revision=recipe.run.revision)
    path = recipe.trainer.chat_template_path
    if path is not None:
        file = Path(path)
        tokenizer.chat_template = file.read_text() if file.is_file() else load_tokenizer(path).chat_template
    return tokenizer


def _dataset(recipe: Recipe, tokenizer: Any, source: str, split: str, limit: int | None) -> Dataset:
    data, max_length = recipe.data, recipe.trainer.max_length
    dataset = build_dataset(
        source,
        tokenizer,
        split=split,
        data_format=data.data_format,
        answer_style=data.answer_style,
        limit=limit,
    )
    if max_length is not None:
        _check_lengths(source, max_length, length_report(dataset, tokenizer, max_length))
    return dataset


def _check_lengths(source: str, max_length: int, report: dict[str, float | int]) -> None:
    """Say what truncation costs; raise `TrainingError` where it leaves no answer to learn from."""
    if report["lost"] == report["rows"]:
        raise TrainingError(
            f"{source}: every prompt is as long as max_length = {max_length} (the longest row has "
            f"{report['longest']} tokens), so no answer is left to learn from; raise max_length"
        )
    if report["truncated"]:
        logger.warning(
            f"{source}: max_length = {max_length} cuts {report['truncated']} of {report['rows']} rows, "
            f"{report['lost']} of them before their answer begins"
        )
