"""`usage.safetensors`: what the experts did in every logged interval, and where the bias stood at its end.

    step (N,) int64, counts (N, L, E) int64, bias (N, L, E) float32

`bias` is there where the method has one; it is NaN in intervals that a release without it recorded. The metadata has
the `format_version`: 2; a file without one is of version 1, which had no bias.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expert_condenser.errors import DataError
from expert_condenser.files import replacing

USAGE_HISTORY = "usage.safetensors"
FORMAT_VERSION = 2
_LAG = 64
"""A growing file is written anew when this share of it is missing: every interval up to 64, then by a part of 64."""


class UsageHistory:
    """The intervals of one training, in order."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """The optimizer step at which each interval ended."""
        self.counts: list[Int[Tensor, "L E"]] = []
        self.biases: list[Float[Tensor, "L E"] | None] = []
        self._written = 0

    def add(self, step: int, counts: Int[Tensor, "L E"], bias: Float[Tensor, "L E"] | None) -> None:
        """Close an interval."""
        self.steps.append(step)
        self.counts.append(counts)
        self.biases.append(bias)

    def write(self, folder: Path) -> None:
        """Write the file of a folder, whole or not at all; nothing where no interval is closed."""
        if self.steps:
            with replacing(folder / USAGE_HISTORY) as partial:
                save_file(self._tensors(), partial, metadata={"format_version": str(FORMAT_VERSION)})

    def follow(self, folder: Path) -> None:
        """Keep the file of a folder up to date while the training runs, at a cost that grows as the file does."""
        if len(self.steps) - self._written > self._written // _LAG:
            self.write(folder)
            self._written = len(self.steps)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"step": torch.tensor(self.steps, dtype=torch.int64), "counts": torch.stack(self.counts)}
        if all(bias is None for bias in self.biases):
            return tensors
        missing = torch.full(self.counts[0].shape, torch.nan)
        return {**tensors, "bias": torch.stack([missing if bias is None else bias for bias in self.biases])}

    @classmethod
    def read(cls, path: Path) -> "UsageHistory":
        """A file of this or an earlier version; raises `DataError` where it is none, or of a newer one."""
        try:
            with safe_open(path, framework="pt") as file:
                version = int((file.metadata() or {}).get("format_version", 1))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            steps = tensors["step"].tolist()
            biases: Sequence[Any] = tensors["bias"] if "bias" in tensors else [None] * len(steps)
            intervals = list(zip(steps, tensors["counts"], biases, strict=True))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise DataError(
                f"{path} is a usage history, step (N,) and counts (N, L, E) of a training; this one is damaged or none "
                f"({error}): take another"
            ) from error
        if version > FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version}, and this release reads up to {FORMAT_VERSION}; update "
                "expert-condenser"
            )
        history = cls()
        for interval in intervals:
            history.add(*interval)
        return history
