"""What was computed from rows once is found on disk: examples, beside the facts about them."""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from datasets import Dataset, load_from_disk

_COMPUTED_BY = ("expert-condenser", "transformers", "tokenizers", "datasets", "jinja2")
"""Another version of one of them computes anew."""
_FACTS = "facts.json"


def kept(key: Any, compute: Callable[[], tuple[Dataset, dict[str, Any]]]) -> tuple[Dataset, dict[str, Any]]:
    """What `compute` returns, from the cache of `datasets` where it was computed from the same `key` (JSON) before.

    Where the cache cannot be written, it is computed again.
    """
    text = json.dumps([key, [version(name) for name in _COMPUTED_BY]], sort_keys=True, default=str)
    name = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "expert-condenser" / name
    if not folder.exists():
        made = compute()
        if not len(made[0]):  # `datasets` cannot read back what has no rows
            return made
        try:
            _save(*made, folder)
        except OSError:
            return made
    return load_from_disk(folder / "rows"), json.loads((folder / _FACTS).read_text())


def _save(dataset: Dataset, facts: dict[str, Any], folder: Path) -> None:
    """All of it or nothing; another process may be faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        dataset.save_to_disk(made / "rows")
        (made / _FACTS).write_text(json.dumps(facts))
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
