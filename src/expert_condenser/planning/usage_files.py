"""Files that say how often every expert was chosen: JSON records, and the usage that a run keeps.

`{"top_k": 6, "selection_counts": [[...], ...]}`, a row per layer, is what ESFT's authors published of DeepSeek-V2-Lite;
`usage.safetensors` of a run's `final/` has the counts of every logged interval, which are summed.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from expert_condenser.errors import DataError
from expert_condenser.files import read_json


class UsageFile(NamedTuple):
    """How often each expert of each layer was chosen."""

    name: str
    counts: Float64[Tensor, "L E"]
    top_k: int | None
    """Of a run's usage it is not known."""


def read_usage(path: Path) -> UsageFile:
    """Raises `DataError` on anything else than usage."""
    try:
        counts, top_k = _of_run(path) if path.suffix == ".safetensors" else _of_record(path)
    except DataError:
        raise  # says already what is wrong with the file
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, SafetensorError, OSError) as error:
        raise DataError(
            f"usage is JSON with `selection_counts`, a row per layer, and `top_k`, or a run's usage.safetensors; "
            f"{path}: {error!r}"
        ) from error
    if counts.ndim != 2 or not counts.isfinite().all() or (counts < 0).any() or (counts.sum(-1) <= 0).any():
        raise DataError(f"usage counts choices, some in every layer; got other numbers in {path}")
    if top_k is not None and not 1 <= top_k <= counts.shape[1]:
        raise DataError(f"top_k is 1 to the {counts.shape[1]} experts that are counted; got {top_k} in {path}")
    return UsageFile(path.stem, counts, top_k)


def _of_record(path: Path) -> tuple[Tensor, int]:
    content = read_json(path)
    return torch.tensor(content["selection_counts"], dtype=torch.float64), int(content["top_k"])


def _of_run(path: Path) -> tuple[Tensor, None]:
    return load_file(path)["counts"].double().sum(0), None
