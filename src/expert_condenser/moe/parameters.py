"""The parameters of a MoE model by what they are: routers, experts, attention, ...; and what of them trains."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.split import numel

Group = Literal["router", "routed experts", "shared experts", "attention", "embeddings", "norms", "other"]
RouterMode = Literal["train", "freeze", "lora"]
ROUTER_MODES: tuple[str, ...] = get_args(RouterMode)
_ATTENTION = re.compile(r"attn|attention|mixer|mamba|conv")
_SHARED = re.compile(r"\.(shared_experts?|shared_expert_gate|shared_mlp)\.")
_CORRECTION = re.compile(r"\.(expert_bias|e_score_correction_bias)$")
_PART = re.compile(r"\.trained_slices\.|\.trained_blocks$")
_OTHER_TOWERS = re.compile(r"vision|visual|audio|projector")


@dataclass(frozen=True)
class Count:
    """Numbers of parameters of one group."""

    total: int
    trainable: int


def parameter_groups(model: nn.Module, layers: Sequence[MoELayer]) -> dict[str, Group]:
    """`{parameter name: group}`; the parameters of an adapter belong to the group of what they adapt."""
    embeddings, norms = _embeddings(model), _norms(model)
    return {name: _group(name, layers, embeddings, norms) for name, _ in model.named_parameters()}


def count_trainable(model: nn.Module, layers: Sequence[MoELayer]) -> dict[Group, Count]:
    """How many parameters each group has, and how many of them train; groups without any are left out.

    ESFT's slices and SMT's blocks train in the place of a part of a weight: they do not add to the total.
    """
    groups = parameter_groups(model, layers)
    counts: dict[Group, Count] = {}
    for group in get_args(Group):
        own = [(name, p) for name, p in model.named_parameters() if groups[name] == group]
        if own:
            total = sum(numel(p) for name, p in own if not _PART.search(name))
            counts[group] = Count(total, sum(numel(p) for _, p in own if p.requires_grad))
    return counts


def set_router_mode(model: nn.Module, layers: Sequence[MoELayer], mode: str) -> None:
    """Let the routers train, or freeze them; with `lora` only adapters on them train.

    Nothing that came frozen is set free: some families keep their correction bias as a frozen parameter.
    Raises `TrainingError` where the model has no adapters on its routers for `lora`, or has adapters that
    leave no place for a router that trains.
    """
    groups = parameter_groups(model, layers)
    routers = [name for name, group in groups.items() if group == "router"]
    if mode == "lora" and not any(map(is_adapter, routers)):
        raise TrainingError("router='lora' trains adapters on the routers, and this model has none: set lora as well")
    if mode == "train" and any(map(is_adapter, groups)):
        raise TrainingError("with an adapter the weights of the routers stay; router is 'freeze' or 'lora'")
    if mode == "freeze":
        freeze(model, routers)


def router_trains(model: nn.Module, layers: Sequence[MoELayer]) -> bool:
    """Whether a parameter of a router, or of an adapter on one, is trained."""
    groups = parameter_groups(model, layers)
    return any(p.requires_grad and groups[name] == "router" for name, p in model.named_parameters())


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Take parameters out of training; raises `TrainingError` if there are none, so that no switch is idle."""
    if not names:
        raise TrainingError("what is to be frozen matches no parameter of the model")
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def is_adapter(name: str) -> bool:
    """Whether a parameter is PEFT's."""
    return ".lora_" in name


def _under(name: str, module: str) -> bool:
    return name.startswith(module + ".")


def _group(name: str, layers: Sequence[MoELayer], embeddings: set[str], norms: set[str]) -> Group:
    if _OTHER_TOWERS.search(name):
        return "other"
    if _CORRECTION.search(name) or any(_under(name, layer.gate) for layer in layers):
        return "router"
    if any(_under(name, f"{layer.block}.experts") for layer in layers):
        return "routed experts"
    if _SHARED.search(name):
        return "shared experts"
    if any(module in embeddings for module in _ancestors(name)):
        return "embeddings"
    if any(module in norms for module in _ancestors(name)):
        return "norms"
    if _ATTENTION.search(name):
        return "attention"
    if any(_under(name, layer.shared) for layer in layers):
        return "shared experts"
    return "other"


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _embeddings(model: nn.Module) -> set[str]:
    heads = ("lm_head", "embed_out", "output_projection")
    return {name for name, m in model.named_modules() if isinstance(m, nn.Embedding) or name.split(".")[-1] in heads}


def _norms(model: nn.Module) -> set[str]:
    # Some norms hold others; `DbrxNormAttentionNorm` holds attention.
    named = {name: module for name, module in model.named_modules() if "Norm" in type(module).__name__}
    return {name for name, module in named.items() if not any(isinstance(m, nn.Linear) for m in module.modules())}
