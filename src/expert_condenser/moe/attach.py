"""Attach the method's routing to a loaded model, choose its condensers, detach it again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expert_condenser.errors import RoutingError, UnsupportedModelError
from expert_condenser.functional.routing import RoutingConfig, check_condensers
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.moe.backbone import return_backbone
from expert_condenser.moe.handover import SCORES
from expert_condenser.moe.hooked import check_forward
from expert_condenser.moe.layers import MoELayer, decoder_of, family_name, moe_layers
from expert_condenser.moe.own_types import CondenserModel, adopt, causal_lm, install_policy, own_config, release
from expert_condenser.moe.parameters import is_adapter
from expert_condenser.moe.recycled import check_recycling, make_gates
from expert_condenser.moe.router import clear_policy
from expert_condenser.moe.saving import check_saveable


def attach(model: nn.Module, config: RoutingConfig | None = None) -> nn.Module:
    """Give every router of `model` a selection bias and room for condensers, in place; returns the model.

    Routing is unchanged, bit for bit, until a bias or condensers are set. The model becomes one of our
    own type (`condenser_olmoe`), so that `save_pretrained` writes a checkpoint that keeps both. `config`
    None attaches the counting only: the model stays what it is.

    Raises `UnsupportedModelError` for a model without known MoE layers, one that would be saved without its routing
    (a classifier, a bare decoder), and one whose routers have a forward that is not their class's; `RoutingError`
    where it is attached already or where R does not fit a layer.
    """
    layers = moe_layers(model)
    if find_attachment(model) is not None:
        raise RoutingError("a model is attached once; this one is already. Call detach(model) first.")
    if len({layer.num_experts for layer in layers}) > 1:
        raise UnsupportedModelError(
            f"every MoE layer has the same number of experts; got {[layer.num_experts for layer in layers]}"
        )
    for layer in layers:
        check_forward(layer.name, layer.router)
    if config is not None:
        _check_weighing(layers[0], config, family_name(model))
        if config.budget == "recycle":
            _check_recycling(model, layers)
        for index, count in enumerate(_condensers_per_layer(config, len(layers))):
            _check_fit(index, layers[index], count, config)
    inner = None if config is None else check_saveable(model)
    install_policy(model, config)
    if config is not None:
        own_config(model, inner)
        adopt(inner, config)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Undo `attach`: the routers' classes, tensors and outputs are the stock ones again, bit for bit."""
    attachment = attachment_of(model)
    attachment.remove(decoder_of(model, moe_layers(model)))
    return_backbone(causal_lm(model))
    for router in attachment.routers:
        clear_policy(router)
    if isinstance(inner := causal_lm(model), CondenserModel):
        release(inner)
    return model


def set_condensers(model: nn.Module, condensers: Mapping[int, Sequence[int]]) -> None:
    """Make experts condensers: `{layer index: expert ids}`, indices into `moe_layers(model)`; others stay as they are.

    Raises `RoutingError` on an unknown layer, an id out of range or given twice, a number that does not
    fit (`R < K` under the shared budget), or one that differs from the config's `num_condensers`.
    """
    layers, policy = moe_layers(model), attachment_of(model).policy
    if policy is None:
        raise RoutingError("condensers need a routing policy: call attach(model, RoutingConfig(...)) first")
    unknown = sorted(set(condensers) - set(range(len(layers))))
    if unknown:
        raise RoutingError(f"the model has MoE layers 0 to {len(layers) - 1}; got condensers for {unknown}")
    wanted = _condensers_per_layer(policy, len(layers)) if policy.num_condensers is not None else None
    for index, ids in condensers.items():
        _check_ids(index, layers[index], ids)
        if wanted is not None and len(ids) != wanted[index]:
            raise RoutingError(
                f"layer {index}: the routing config says num_condensers = {wanted[index]}; got {len(ids)} ids"
            )
        _check_fit(index, layers[index], len(ids), policy)
    for index, ids in condensers.items():
        router = layers[index].router
        router.condenser_ids = torch.tensor(list(ids), dtype=torch.int64, device=router.condenser_ids.device)
        if policy.budget == "recycle":
            make_gates(router, len(ids))
    if isinstance(inner := causal_lm(model), CondenserModel):
        own_config(model, inner)
        inner.config.condenser["condensers_per_layer"] = [len(layer.router.condenser_ids) for layer in layers]


def set_top_k(model: nn.Module, top_k: int) -> None:
    """Give every token `top_k` experts, in the routers and in the config that is saved with the model.

    Raises `RoutingError` where a layer has fewer experts, or where the config has no such number.
    """
    layers = moe_layers(model)
    eligible = min(layer.num_experts // layer.scoring.num_groups * layer.scoring.groups_kept for layer in layers)
    if not 1 <= top_k <= eligible:
        raise RoutingError(f"top_k is a number of experts that a token may choose, 1 to {eligible}; got {top_k}")
    if (fixed := layers[0].rule.fixed_top_k) is not None:
        raise RoutingError(
            f"the routers of {family_name(model)} take {fixed} experts per token whatever its config says"
        )
    if any(name.endswith(".tid2eid") for name, _ in model.named_buffers()):
        raise RoutingError(f"some layers of {family_name(model)} have a table of K experts for every token id")
    own_config(model, model)
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    field = next((name for name in _TOP_K_FIELDS if hasattr(config, name)), None)
    if field is None:
        raise RoutingError(f"top_k is changed in the config, and that of {family_name(model)} has none")
    setattr(config, field, top_k)
    for layer in layers:
        if hasattr(layer.router, "top_k"):  # elsewhere it reads the config
            layer.router.top_k = top_k


_TOP_K_FIELDS = ("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts")


def _condensers_per_layer(config: RoutingConfig, num_layers: int) -> list[int]:
    wanted = config.num_condensers
    if wanted is None:
        return [0] * num_layers
    counts = [wanted] * num_layers if isinstance(wanted, int) else list(wanted)
    if len(counts) != num_layers:
        raise RoutingError(f"num_condensers has one entry per MoE layer ({num_layers}); got {len(counts)}")
    return counts


def _check_weighing(layer: MoELayer, config: RoutingConfig, family: str) -> None:
    """Raise `RoutingError` where a switch on the gate weights has no meaning in the family."""
    if config.bias_in_weights and layer.rule.correction is not None:
        raise RoutingError(
            f"bias_in_weights weighs by the scores of logits + bias; {family} has a correction bias of its own on its "
            "scores, and the method's stays beside that. Leave bias_in_weights out."
        )
    if config.keeps_mass and layer.rule.handover is SCORES:
        raise RoutingError(
            f"condenser_mass and condenser_gate_floor keep the sum of the weights of outputs; {family} weighs the "
            "inputs of experts. Leave them out."
        )


def _check_recycling(model: nn.Module, layers: Sequence[MoELayer]) -> None:
    for layer in layers:
        check_recycling(layer)
    if any(is_adapter(name) for name, _ in model.named_parameters()):
        raise RoutingError(
            "budget 'recycle' adds tensors to the routers, and an adapter does not save them; take one of them, or "
            "budget 'shared' or 'additive'"
        )


def _check_fit(index: int, layer: MoELayer, count: int, config: RoutingConfig) -> None:
    try:
        check_condensers(count, layer.num_experts, layer.top_k, config, layer.scoring)
    except RoutingError as error:
        raise RoutingError(f"layer {index} ({layer.name}): {error}") from None


def _check_ids(index: int, layer: MoELayer, ids: Sequence[int]) -> None:
    outside = [i for i in ids if not 0 <= i < layer.num_weighted]
    if outside or len(set(ids)) != len(ids):
        raise RoutingError(
            f"layer {index} ({layer.name}): condensers are distinct expert ids in 0..{layer.num_weighted - 1}; "
            f"got {list(ids)}"
        )
