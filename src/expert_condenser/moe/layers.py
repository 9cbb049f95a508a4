"""Where a model keeps its MoE layers: every router with the experts beside it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers  # by attribute, at call time: see `registration`
from torch import Tensor, nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.families import FAMILIES, REFUSED
from expert_condenser.moe.rule import Rule
from expert_condenser.moe.split import readable, whole

MODEL_TYPE_PREFIX = "condenser_"
"""Own model types are the family's with this prefix: `condenser_olmoe`."""


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer of a model; the index in `moe_layers(model)` is the layer index used everywhere."""

    name: str
    """Qualified name of the router, such as `model.layers.0.mlp.gate`."""
    router: Any
    experts: nn.Module
    num_experts: int
    top_k: int
    rule: Rule
    block: str
    """Qualified name of the module that holds router and experts, such as `model.layers.0.mlp`."""

    @property
    def gate(self) -> str:
        """Qualified name of the module with the router's weights: the router, or that in it where the block chooses."""
        return f"{self.name}.router" if self.rule.handover.in_block else outermost(self.name)

    @property
    def shared(self) -> str:
        """Qualified name of the module whose other parts are shared experts.

        It is the block; where router and experts sit in the decoder layer itself, the MLP that runs beside them.
        """
        return f"{self.block}.mlp" if self.block.rpartition(".")[2].isdigit() else self.block

    @property
    def num_weighted(self) -> int:
        """How many of the E experts, the first ones, have weights; the others are the identity."""
        return self.num_experts - self.rule.num_identity(self.router)

    @property
    def scoring(self) -> Scoring:
        """How this layer's router turns logits into weights."""
        return self.rule.scoring(self.router)


_RULES = {family.router_class: family.rule for family in FAMILIES.values()}
_OF_IMAGES = re.compile(r"(^|\.)vision_")
"""Routers that see image tokens only, such as ERNIE's `vision_moe` beside its `text_moe`, stay as they are."""


def family_name(model: nn.Module) -> str:
    """The model's `model_type` without our prefix; of a model without a config, the name of its class."""
    config: Any = getattr(model, "config", None)
    model_type = config.model_type if config is not None else type(model).__name__
    return str(model_type).removeprefix(MODEL_TYPE_PREFIX)


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """The model's MoE layers in order of depth.

    Raises `UnsupportedModelError` for a family that is not in the table, with the reason where there is
    one, and for a model of a known family in which no layer has a router.
    """
    modules = dict(model.named_modules())
    layers = [
        _layer(name, router, modules, rule)
        for name, router in modules.items()
        if (rule := _rule_of(router)) is not None and not _OF_IMAGES.search(name)
    ]
    if reason := _refusal(model, layers):
        raise UnsupportedModelError(
            f"a MoE model of a supported family is needed; {type(model).__name__} ({family_name(model)}): {reason}. "
            f"Supported: {', '.join(sorted(FAMILIES))}."
        )
    return layers


def _refusal(model: nn.Module, layers: list[MoELayer]) -> str | None:
    """Why a model is not supported; None where it is."""
    family = family_name(model)
    if family in REFUSED:
        return REFUSED[family]
    if not layers:
        return "has no MoE layer" if family in FAMILIES else "is not a family that is known here"
    if family not in FAMILIES and isinstance(model, transformers.PreTrainedModel) and model.can_generate():
        # Saved, it would be of its stock type, which loads it without its bias and condensers.
        return "the language model inside is of a known family, the whole is not"
    return None


def decoder_of(model: nn.Module, layers: list[MoELayer]) -> Any:
    """The module that runs the stack of layers (`OlmoeModel`, say): it sees the attention mask of every forward."""
    parts = layers[0].name.split(".")
    return model.get_submodule(".".join(parts[: _depth_position(parts) - 1]))


def decoder_depth(layer: MoELayer) -> int:
    """The layer's index among all decoder layers: 1 for the first MoE layer of a model whose layer 0 is dense."""
    parts = layer.name.split(".")
    return int(parts[_depth_position(parts)])


def _depth_position(parts: list[str]) -> int:
    """Where the layer's number stands: the last one, since a wrapper may have numbers of its own (`nn.Sequential`)."""
    return max(index for index, part in enumerate(parts) if part.isdigit())


def _rule_of(module: nn.Module) -> Rule | None:
    return next((_RULES[c.__name__] for c in type(module).__mro__ if c.__name__ in _RULES), None)


def _layer(name: str, router: Any, modules: dict[str, Any], rule: Rule) -> MoELayer:
    """The layer of a router; between it and its block may be the wrappers of an adapter (`gate.base_layer`)."""
    block = outermost(name) if rule.handover.in_block else outermost(name).rpartition(".")[0]
    experts = getattr(modules[block], "experts", None)
    if experts is None:
        raise UnsupportedModelError(f"a router has its experts beside it, as {block}.experts; {name} has none there")
    num_experts, top_k = rule.sizes(router)
    return MoELayer(name, router, experts, int(num_experts), int(top_k), rule, block)


def outermost(name: str) -> str:
    """The name of a module without those of the adapters around it: `mlp.gate` for `mlp.gate.base_layer`."""
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    return name


def expert_norms(layer: MoELayer) -> Tensor:
    """Frobenius norm of all weights of every expert, `(E,)` float32, for the rule `smallest_norm` (ES-Mag).

    That of an expert that is the identity is 0, whatever rows of a fused weight are left for it.
    """
    return norms_per_expert(layer, map(readable, layer.experts.parameters()))


def norms_per_expert(layer: MoELayer, tensors: Iterable[Tensor]) -> Tensor:
    """The same of other tensors than the weights, in their shapes and order: gradients, say, or differences."""
    sizes = (layer.num_experts, layer.num_weighted)
    weights = [tensor for tensor in tensors if tensor.dim() > 1]
    if layer.rule.stacked_experts:
        weights = [weight.view(layer.num_experts, -1) for weight in weights]
    squares = [
        whole(weight.float().pow(2).flatten(1).sum(dim=1))[: layer.num_weighted]
        for weight in weights
        if len(weight) in sizes
    ]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    return torch.nn.functional.pad(norms, (0, layer.num_experts - layer.num_weighted))
