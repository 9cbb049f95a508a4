"""Rows as tests look at them: what comes before the last answer, and that answer."""

from datasets import Dataset

from expert_condenser.data import rows


def load_rows(source: str, split: str = "train", **options) -> Dataset:
    """The rows of a source as `prompt` and `completion`."""
    found = rows.load_rows(source, split, **options).conversations
    return Dataset.from_list([{"prompt": row.prompt, "completion": row.completion} for row in found])
