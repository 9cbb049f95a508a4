"""The export to a family's own type: the routing goes into its correction bias, and the result is checked.

What is saved is loaded again as its users will load it, and must give the tuned model's logits, bit for bit.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn

from expert_condenser.checkpoint.describe import save_stock
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.errors import ExportError
from expert_condenser.export.exportability import Layers, Refused, exportability
from expert_condenser.functional.routing import outweighing
from expert_condenser.functional.scoring import native_ranks, routed_logits
from expert_condenser.moe.attach import detach
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.corrections import correction_of
from expert_condenser.moe.layers import MoELayer, moe_layers

PROBE = (4, 32)
"""Rows and tokens of the check, drawn over the vocabulary."""


def export_native(source: str, output_dir: Path, dtype: str = "float32") -> str:
    """Write the stock checkpoint of a tuned model of our own type; returns how it carries the routing.

    Raises `ExportError` where there is no exact one, where the folder is there already, and where what was written
    does not give the same logits; then nothing is left.
    """
    if output_dir.exists():
        raise ExportError(f"an export writes to a folder that is not there yet; {output_dir} is")
    model = load_model(source, dtype).eval()
    if isinstance(model, PeftModel):
        raise ExportError(f"whole weights are exported; {source} is an adapter: take the run's model/")
    layers, attachment = moe_layers(model), find_attachment(model)
    policy = None if attachment is None else attachment.policy
    counts = tuple(len(layer.router.condenser_ids) if policy else 0 for layer in layers)
    found = exportability(model.config, policy, "native", _dtype(dtype), Layers(layers[0].scoring, counts))
    if isinstance(found, Refused):
        raise ExportError(f"{source} has no exact checkpoint of its stock type: {found}")
    ids = _probe(model)
    expected = _logits(model, ids)
    condensers = {layer.name: layer.router.condenser_ids.tolist() if policy else [] for layer in layers}
    if policy is not None:
        _write_corrections(model, layers)
    unchecked = output_dir.parent / f".{output_dir.name}.unchecked"
    shutil.rmtree(unchecked, ignore_errors=True)
    try:
        provenance = {"exported": {"from": source, "to": "native", "how": found.how}}
        save_stock(model, load_tokenizer(source), unchecked, provenance)
        check_export(unchecked, dtype, ids, expected, condensers)
        unchecked.rename(output_dir)
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    return found.how


def lifted_correction(
    correction: Float[Tensor, "..."], bias: Float[Tensor, " E"], condensers: Int[Tensor, " R"], above: float
) -> Float[Tensor, "..."]:
    """`b' = b + beta`, and `above` for condensers, in the shape of b."""
    lifted = (correction.float().flatten() + bias).index_fill(0, condensers, above)
    return lifted.view(correction.shape)


@torch.no_grad()
def _write_corrections(model: nn.Module, layers: list[MoELayer]) -> None:
    """Make the model a stock one, in place, whose correction biases are b'."""
    for layer in layers:
        own, router = correction_of(model, layer), layer.router
        own.copy_(lifted_correction(own, router.selection_bias, router.condenser_ids, outweighing(layer.scoring)))
    detach(model)


def check_export(folder: Path, dtype: str, ids: Tensor, expected: Tensor, condensers: Mapping[str, list[int]]) -> None:
    """Raise `ExportError` unless the saved model gives the logits, and no other rank comes near a condenser's."""
    stock = load_model(folder, dtype).eval()
    layers = moe_layers(stock)
    highest: dict[str, float] = {}
    hooks = [
        layer.router.register_forward_pre_hook(partial(_note_highest, layer, condensers[layer.name], highest))
        for layer in layers
        if condensers[layer.name]
    ]
    found = _logits(stock, ids)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        above = outweighing(layer.scoring)
        if condensers[layer.name] and not highest[layer.name] < above / 2:
            raise ExportError(
                f"a condenser is chosen by a correction bias of {above:g}, which must be twice every other rank; "
                f"{layer.name} has one of {highest[layer.name]:g}. Serve our own type."
            )
    if not torch.equal(found, expected):
        apart = (found.float() - expected.float()).abs().max().item()
        raise ExportError(f"the exported model must give the tuned one's logits; they differ by up to {apart:g}")


def _note_highest(
    layer: MoELayer, condensers: list[int], highest: dict[str, float], router: Any, args: tuple[Any, ...]
) -> None:
    hidden, *extra = args
    assert layer.rule.correction is not None
    logits = routed_logits(layer.rule.logits(router, hidden), layer.scoring)
    ranks = native_ranks(logits, layer.scoring, layer.rule.correction(router, *extra))
    rank = ranks.index_fill(-1, torch.tensor(condensers, device=ranks.device), -torch.inf).max().item()
    highest[layer.name] = max(rank, highest.get(layer.name, -torch.inf))


def _probe(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(0, vocabulary, PROBE, generator=generator).to(model.device)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype
