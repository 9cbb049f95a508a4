"""A model from which experts were cut: a smaller one of the same type, whose tensors are those that are left.

What belongs to an expert is told by shapes: the model is built once more with fewer experts in its config, and a tensor
that comes out smaller there has a row, or a block of rows, per expert. So no family needs a table of names.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from expert_condenser.errors import SurgeryError
from expert_condenser.moe.layers import MoELayer, family_name, moe_layers
from expert_condenser.moe.own_types import auto_class, causal_lm
from expert_condenser.moe.parameters import is_adapter
from expert_condenser.moe.state import IDS
from expert_condenser.surgery.removal import Removed, check_removed

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs call the number of experts; some answer to two of these."""
_PARTS = ("ffn_config",)
"""Parts of a text config that have it (DBRX)."""


@torch.no_grad()
def cut_experts(model: nn.Module, removed: Removed) -> Any:
    """A new model without the experts `{layer index: ids}`; `model` stays as it is.

    The experts that are left keep their order and are numbered anew; condensers, selection bias, and what the family
    has per expert follow. Type and dtypes are those of `model`. Raises `SurgeryError` where `check_removed` does, and
    where the family cannot be built with fewer experts.
    """
    layers = moe_layers(model)
    _check_cuttable(model)
    check_removed(layers, removed, condensers_of(layers))
    left = layers[0].num_weighted - len(removed[0])
    small = _built_with(model, left)
    kept = [_kept(layer, removed[at]) for at, layer in enumerate(layers)]
    small.load_state_dict(dict(_cut(model.state_dict(), small.state_dict(), layers, kept)), assign=True)
    small.tie_weights()
    return small.train(model.training)


def condensers_of(layers: list[MoELayer]) -> dict[int, list[int]]:
    """`{layer index: expert ids}`; empty lists where a model has no condensers, or no policy."""
    none = torch.empty(0, dtype=torch.int64)
    return {at: getattr(layer.router, IDS, none).tolist() for at, layer in enumerate(layers)}


def _kept(layer: MoELayer, removed: Any) -> Int64[Tensor, " n"]:
    gone = set(removed)
    return torch.tensor([i for i in range(layer.num_experts) if i not in gone])


def _check_cuttable(model: Any) -> None:
    if causal_lm(model) is not model or any(is_adapter(name) for name, _ in model.named_parameters()):
        raise SurgeryError(
            f"a whole model with a language head is cut; got {type(model).__name__}: merge adapters first"
        )
    if any(name.endswith(".tid2eid") for name, _ in model.named_buffers()):
        raise SurgeryError(
            f"some layers of {family_name(model)} have a table of experts for every token id, and keep them"
        )


def _built_with(model: Any, count: int) -> Any:
    """The model once more with `count` experts that have weights, its tensors to be filled."""
    config, wanted = copy.deepcopy(model.config), moe_layers(model)
    text = config.get_text_config()
    parts = [text, *(getattr(text, name) for name in _PARTS if hasattr(text, name))]
    for part in parts:
        for name in _COUNTS:
            if getattr(part, name, None) == wanted[0].num_weighted:
                setattr(part, name, count)
    try:
        small = auto_class(type(config)).from_config(config, dtype=model.dtype)
        found = [layer.num_weighted for layer in moe_layers(small)]
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        raise SurgeryError(f"{family_name(model)} cannot be built with {count} experts: {error}") from error
    if found != [count] * len(wanted):
        raise SurgeryError(
            f"the config of {family_name(model)} has no number of experts; built with {count}, it has {found}"
        )
    return small


def _cut(
    whole: Mapping[str, Tensor], small: Mapping[str, Tensor], layers: list[MoELayer], kept: list[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the smaller model."""
    for name, tensor in whole.items():
        at = next((i for i, layer in enumerate(layers) if name.startswith(f"{layer.block}.")), None)
        if at is not None and name == f"{layers[at].name}.{IDS}":
            yield name, torch.searchsorted(kept[at].to(tensor.device), tensor)
        elif name in small and small[name].shape == tensor.shape:
            yield name, tensor.clone()
        elif at is None or name not in small:
            raise SurgeryError(
                f"only experts of the text's MoE layers are removed, and the same number of the config is that of "
                f"{name} {tuple(tensor.shape)}: this model cannot be pruned"
            )
        else:
            yield name, rows_of(tensor, small[name].shape, layers[at], kept[at])


def rows_of(tensor: Tensor, wanted: torch.Size, layer: MoELayer, kept: Int64[Tensor, " n"]) -> Tensor:
    """The part of a tensor that belongs to the experts kept, in the shape that a model of so many has.

    One dimension is shorter there. It has one place per expert, or as many places for each; shared experts follow.
    """
    differing = [d for d, (old, new) in enumerate(zip(tensor.shape, wanted, strict=True)) if old != new]
    if len(differing) != 1:
        raise SurgeryError(
            f"{layer.name}: a tensor has its experts in one dimension; {tuple(tensor.shape)}, {tuple(wanted)}"
        )
    dim = differing[0]
    old, new = tensor.shape[dim], wanted[dim]
    for size in (layer.num_experts, layer.num_weighted):
        ids = kept[kept < size].to(tensor.device)
        if old * len(ids) == new * size:  # a place, or several, for each of them
            blocks = tensor.reshape(*tensor.shape[:dim], size, old // size, *tensor.shape[dim + 1 :])
            return blocks.index_select(dim, ids).reshape(wanted)
        if old >= size and old - new == size - len(ids):  # others follow
            ids = torch.cat([ids, torch.arange(size, old, device=ids.device)])
            return tensor.index_select(dim, ids)
    raise SurgeryError(
        f"{layer.name}: a tensor of {old} rows has none per expert, of which there are {layer.num_experts}"
    )
