"""The tokens of a run's fixed rows as text, and the experts that took each: at the start and after every phase."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expert_condenser.checkpoint.load import resolve_model
from expert_condenser.report.page.arrays import packed_counts
from expert_condenser.report.page.runs import RunFiles

CHOICES = 1_000_000
"""Choices of experts of all runs together: about 1.4 MB of a page where they fit a byte."""
_MOMENTS = {"start": "before", "end": "after"}


def token_data(runs: Sequence[RunFiles], choices: int = CHOICES) -> list[dict[str, Any]]:
    """What `assets/tokens.js` shows, an entry for every run that recorded routing."""
    shown = [run for run in runs if run.routing]
    return [_of_run(run, choices // len(shown)) for run in shown]


def _of_run(run: RunFiles, choices: int) -> dict[str, Any]:
    first = next(iter(run.routing.values()))
    moments = _moments(run)
    count = _whole_rows(first["row"], choices // sum(each[0].numel() for each in moments.values()))
    texts = _texts(run, first["tokens"][:count].tolist())
    return {
        "name": run.label,
        "layers": first["layers"].tolist(),
        "row": first["row"][:count].tolist(),
        "text": texts or [str(token) for token in first["tokens"][:count].tolist()],
        "hasText": texts is not None,
        "rows": int(first["row"].max()) + 1,
        # A slot that a layer lacks is -1 in the file, and 0 here, where experts count from 1.
        "moments": [
            {"name": name, "experts": packed_counts(each[:count].numpy() + 1)} for name, each in moments.items()
        ],
        "condensers": [run.condensers.get(layer, []) for layer in range(len(first["layers"]))],
    }


def _moments(run: RunFiles) -> dict[str, Tensor]:
    """The start of the first phase, and the end of every phase: a phase begins as the one before it ended."""
    found: dict[str, Tensor] = {}
    for phase, tensors in run.routing.items():
        for moment, word in _MOMENTS.items():
            experts = tensors.get(f"{moment}.experts")
            if experts is not None and (moment == "end" or not found):
                found[f"{word} {phase}"] = experts
    return found


def _whole_rows(row: Tensor, most: int) -> int:
    """How many tokens the first rows have that fit, one row at least."""
    ends = torch.cat([(row.diff() != 0).nonzero().flatten() + 1, torch.tensor([len(row)])]).tolist()
    return max([end for end in ends if end <= most], default=ends[0])


def _texts(run: RunFiles, tokens: Sequence[int]) -> list[str] | None:
    """Token by token; None where there is no tokenizer on this machine."""
    places = [run.folder / "model", run.folder / "adapter", run.record.config.get("model")]
    tokenizer = next((found for place in places if place and (found := _tokenizer(str(place))) is not None), None)
    return None if tokenizer is None else [tokenizer.decode([token]) for token in tokens]


@cache
def _tokenizer(place: str) -> Any:
    from transformers import AutoTokenizer  # seconds, and not every report has tokens

    path = resolve_model(place)
    if Path(path).is_absolute() and not Path(path).is_dir():
        return None  # no name of the hub, whose cache would be asked
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)  # a report asks no network
    except (OSError, ValueError):
        return None
