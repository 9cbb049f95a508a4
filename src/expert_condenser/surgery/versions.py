"""A model before and after, side by side: size, quality on the same items, and the time that they took."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.moe.layers import moe_layers
from expert_condenser.surgery.questions import compared


@dataclass(frozen=True)
class Version:
    """One state of the model."""

    name: str
    num_experts: int
    parameters: int
    file_bytes: int
    """Of its weights on disk; 0 for a hub model, of which no files are looked at."""
    quality: Quality | None
    seconds: float | None
    """What all items took, which depends on what else the machine does."""
    tasks: Mapping[str, Any] = field(default_factory=dict)
    """Task -> its scores, where tasks were asked."""

    def content(self, before: "Version") -> dict[str, Any]:
        """As JSON, with the rise of nll over `before`."""
        found: dict[str, Any] = {
            "name": self.name,
            "num_experts": self.num_experts,
            "parameters": self.parameters,
            "file_bytes": self.file_bytes,
            **({"tasks": compared(self.tasks, before.tasks)} if self.tasks else {}),
        }
        if self.quality is None or before.quality is None or self.seconds is None:
            return found
        rise, interval = self.quality.rise_over(before.quality)
        return {
            **found,
            **self.quality.content(),
            "nll_rise": rise,
            "nll_rise_interval": [interval.low, interval.high],
            "answer_tokens_per_second": self.quality.tokens.sum() / self.seconds,
        }


def version_of(
    name: str, model: Any, path: str, rows: Sequence[Tokens], *, batch_size: int, tasks: Mapping[str, Any]
) -> Version:
    """Ask a model the rows; without rows only its size is noted. `tasks` is what it scored on tasks already."""
    quality, seconds = None, None
    if rows:
        start = time.perf_counter()
        quality = quality_of(model, rows, batch_size=batch_size)
        seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    parameters = sum(p.numel() for p in model.parameters())
    return Version(name, moe_layers(model)[0].num_experts, parameters, size, quality, seconds, tasks)
