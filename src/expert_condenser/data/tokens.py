"""Conversations as tokens: rendered by the chat template, measured, and kept on disk."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.formats import Message

_COMPUTED_BY = ("expert-condenser", "transformers", "tokenizers", "trl", "datasets")


def render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, **options: bool) -> Any:
    """The conversation as text, or with `tokenize` as token ids."""
    return tokenizer.apply_chat_template(messages, return_dict=False, **options)


def on_disk(dataset: Dataset) -> Dataset:
    """The same rows in the cache of `datasets`: what is computed from them, tokens above all, is kept beside them.

    The next run on the same rows and tokenizer finds it there, unless one of the libraries that compute it has another
    version. Where the cache cannot be written, `dataset` itself.
    """
    key = Hasher.hash([dataset.to_dict(), [version(name) for name in _COMPUTED_BY]])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "expert-condenser" / key
    try:
        if not folder.exists():
            _save(dataset, folder)
        return load_from_disk(folder)
    except OSError:
        return dataset


def _save(dataset: Dataset, folder: Path) -> None:
    """All of it or nothing; another process may be faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        rows = Path(temporary) / "rows"
        dataset.save_to_disk(rows)
        try:
            rows.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def length_report(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, float | int]:
    """Lengths in tokens, and what truncation to `max_length` costs.

    `truncated` rows are longer than `max_length`; `lost` ones have a prompt that fills it, so that no token of the
    completion is left to learn from.
    """
    lengths = dataset.map(
        _lengths, fn_kwargs={"tokenizer": tokenizer}, remove_columns=dataset.column_names, desc="Measuring lengths"
    )
    whole, shared = lengths["whole"], lengths["shared"]
    return {
        "rows": len(dataset),
        "tokens": sum(whole),
        "longest": max(whole),
        "truncated": sum(length > max_length for length in whole),
        "lost": sum(length >= max_length for length in shared),
    }


def _lengths(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    prompt = render(row["prompt"], tokenizer, tokenize=True, add_generation_prompt=True)
    whole = render(row["prompt"] + row["completion"], tokenizer, tokenize=True)
    return {"whole": len(whole), "shared": shared_length(prompt, whole)}


def shared_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many leading items are the same in both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
