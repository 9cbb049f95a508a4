"""The export to a family's own type: the routing goes into its correction bias, and the result is checked.

What is saved is loaded again as its users will load it, and must give the tuned model's logits, bit for bit.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expert_condenser.checkpoint.describe import provenance_of, save_stock
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.errors import ExportError
from expert_condenser.export.tuned import check_outweighed, probe, read_tuned, unchecked
from expert_condenser.functional.routing import outweighing
from expert_condenser.functional.scoring import native_ranks, routed_logits
from expert_condenser.moe.attach import detach
from expert_condenser.moe.corrections import correction_of
from expert_condenser.moe.layers import MoELayer, moe_layers


def export_native(source: str, output_dir: Path, dtype: str = "float32") -> str:
    """Write the stock checkpoint of a tuned model of our own type; returns how it carries the routing.

    Raises `ExportError` where there is no exact one, where the folder is there already, and where what was written
    does not give the same logits; then nothing is left.
    """
    with unchecked(output_dir) as folder:
        tuned = read_tuned(source, "native", dtype)
        model, ids, condensers = tuned.model, probe(tuned.model), tuned.condensers()
        expected = _logits(model, ids)
        if tuned.policy is not None:
            _write_corrections(model, tuned.layers)
        provenance = {**provenance_of(source), "exported": {"from": source, "to": "native", "how": tuned.how}}
        save_stock(model, load_tokenizer(source), folder, provenance)
        check_export(folder, dtype, ids, expected, condensers)
    return tuned.how


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
        if condensers[layer.name]:
            check_outweighed(layer.name, highest[layer.name], outweighing(layer.scoring))
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


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    except RuntimeError as error:  # of torch, where a family mixes dtypes or a kernel takes no such sizes
        reason = " ".join(str(error).split())[:200]
        dtype = str(model.dtype).removeprefix("torch.")
        raise ExportError(
            f"an export is checked by its logits, and {type(model).__name__} gives none in {dtype}: {reason}. Take "
            "another --dtype."
        ) from error
    return logits
