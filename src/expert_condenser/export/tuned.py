"""The tuned model that is exported, with what every export asks of it before anything is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor

from expert_condenser.appearing import appearing, check_free
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import ExportError, UsageError
from expert_condenser.export.exportability import Layers, Refused, Target, exportability
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.layers import MoELayer, moe_layers

PROBE = (4, 32)
"""Rows and tokens of the check, drawn over the vocabulary."""


class Tuned(NamedTuple):
    """A loaded model whose export is exact."""

    model: Any
    layers: list[MoELayer]
    policy: RoutingConfig | None
    how: str

    def condensers(self) -> dict[str, list[int]]:
        """The condensers of every layer, by the router's name."""
        return {layer.name: layer.router.condenser_ids.tolist() if self.policy else [] for layer in self.layers}


def read_tuned(source: str, target: Target, dtype: str) -> Tuned:
    """Load a model with weights of `dtype`; raises `ExportError` where it has no exact export to `target`."""
    model = load_model(source, dtype).eval()
    if isinstance(model, PeftModel):
        raise ExportError(f"whole weights are exported; {source} is an adapter: take the run's model/")
    layers, attachment = moe_layers(model), find_attachment(model)
    policy = None if attachment is None else attachment.policy
    counts = tuple(len(layer.router.condenser_ids) if policy else 0 for layer in layers)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    found = exportability(model.config, policy, target, torch_dtype, Layers(layers[0].scoring, counts))
    if isinstance(found, Refused):
        what = {"native": "checkpoint of its stock type", "gguf": "GGUF file"}[target]
        raise ExportError(f"{source} has no exact {what}: {found}")
    return Tuned(model, layers, policy, found.how)


@contextmanager
def unchecked(output_dir: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `output_dir` at the end; nothing is left after an error."""
    try:
        check_free(output_dir)
    except UsageError as error:
        raise ExportError(f"an export writes to a folder that is not there yet: {error}") from error
    with appearing(output_dir) as folder:
        yield folder


def probe(model: Any) -> Tensor:
    """The token ids of the check, the same for the same vocabulary."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(0, vocabulary, PROBE, generator=generator).to(model.device)


def check_outweighed(name: str, highest: float, above: float) -> None:
    """Raise `ExportError` unless every rank but a condenser's stays below half of what chooses one."""
    if not highest < above / 2:
        raise ExportError(
            f"a condenser is chosen by a correction bias of {above:g}, which must be twice every other rank; "
            f"{name} has one of {highest:g}. Serve our own type."
        )
