"""The tensors of a tuned model under llama.cpp's names, one after the other, so that no second copy is in memory."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from expert_condenser.errors import ExportError
from expert_condenser.export.gguf_layouts import OF_MODEL, Layout, lift
from expert_condenser.moe.corrections import NAMES as CORRECTIONS
from expert_condenser.moe.corrections import correction_of
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.state import STATE

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_THE_BIAS = (*STATE, *CORRECTIONS)


def gguf_tensors(
    model: Any, layers: Sequence[MoELayer], layout: Layout, ranks_logits: bool
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file, `(name, tensor)`; a bias of the choice for every MoE layer.

    Raises `ExportError` at a tensor that has no place there: what is left out would not be noticed.
    """
    for name, tensor in model.state_dict().items():
        stem, kind = name.removesuffix(".weight").removesuffix(".bias"), name.rpartition(".")[2]
        if kind in _IN_THE_BIAS:
            continue
        if stem in OF_MODEL:
            yield f"{OF_MODEL[stem]}.{kind}", tensor
        elif (found := _LAYER.fullmatch(stem)) is None:
            raise ExportError(f"the layout {layout.architecture} has no place for {name}: serve our own type")
        else:
            yield from _of_layer(model.config, layout, f"blk.{found[1]}", found[2], kind, tensor)
    for layer in layers:
        block = f"blk.{block_of(layer)}"
        yield f"{block}.exp_probs_b.bias", choice_bias(model, layer, ranks_logits)
        if layout.zero_expert:
            yield from _zero_expert(model.config, block, model.dtype)


def block_of(layer: MoELayer) -> int:
    """The index of the decoder layer that an MoE layer is in: `model.layers.3.mlp.gate` is in 3."""
    return int(layer.name.split(".")[2])


def choice_bias(model: Any, layer: MoELayer, ranks_logits: bool) -> Float[Tensor, " E"]:
    """What llama.cpp adds to a layer's ranks: beta, on top of the family's own bias, and `above` for condensers."""
    router = layer.router
    bias = router.selection_bias.float()
    if layer.rule.correction is not None:
        bias = correction_of(model, layer).float().flatten() + bias
    return bias.index_fill(0, router.condenser_ids, lift(ranks_logits))


def _of_layer(
    config: Any, layout: Layout, block: str, stem: str, kind: str, tensor: Tensor
) -> Iterator[tuple[str, Tensor]]:
    if stem == "mlp.experts.gate_up_proj":
        gate, up = tensor.chunk(2, dim=1)
        yield f"{block}.ffn_gate_exps.weight", gate
        yield f"{block}.ffn_up_exps.weight", up
    elif stem == "mlp.experts.down_proj":
        yield f"{block}.ffn_down_exps.weight", tensor
    elif layout.latent and stem == "self_attn.kv_b_proj":
        yield from _latent_projections(config, block, tensor)
    elif stem in layout.names:
        yield f"{block}.{layout.names[stem]}.{kind}", tensor
    else:
        raise ExportError(f"the layout {layout.architecture} has no place for {stem} of a layer: serve our own type")


def _latent_projections(config: Any, block: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The up-projection of MLA: the keys' part, which is applied to the queries, and the values'."""
    heads = tensor.view(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = torch.split(heads, [config.qk_nope_head_dim, config.v_head_dim], dim=1)
    yield f"{block}.attn_k_b.weight", keys.transpose(1, 2)
    yield f"{block}.attn_v_b.weight", values


def _zero_expert(config: Any, block: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    for part, shape in {"gate": (inner, -1), "up": (inner, -1), "down": (-1, inner)}.items():
        size = [config.hidden_size if side == -1 else side for side in shape]
        yield f"{block}.ffn_{part}_shexp.weight", torch.zeros(size, dtype=dtype)
