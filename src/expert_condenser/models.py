"""Where transformers' MoE models keep their routers, and how each family scores: the table of families."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.routing import Scoring

MODEL_TYPE_PREFIX = "condenser_"
"""Own model types are the family's with this prefix: `condenser_olmoe`."""


@dataclass(frozen=True)
class Family:
    """One row of the table: the router's class name, its logits, and how it scores them."""

    router_class: str
    logits: Callable[[Any, Tensor], Tensor]
    scoring: Callable[[Any], Scoring]


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer of a model; the index in `moe_layers(model)` is the layer index used everywhere."""

    name: str
    """Qualified name of the router, such as `model.layers.0.mlp.gate`."""
    router: Any
    experts: nn.Module
    num_experts: int
    top_k: int
    family: Family

    @property
    def scoring(self) -> Scoring:
        """How this layer's router turns logits into weights."""
        return self.family.scoring(self.router)


def _linear_logits(router: Any, hidden: Tensor) -> Tensor:
    return nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight)


def _linear_logits_with_bias(router: Any, hidden: Tensor) -> Tensor:
    return nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight, router.bias)


def _float32_logits(router: Any, hidden: Tensor) -> Tensor:
    return nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]).float(), router.weight.float())


def _softmax(router: Any) -> Scoring:
    return Scoring(normalize=router.norm_topk_prob)


def _mixtral(router: Any) -> Scoring:
    return Scoring(normalize=True, weights_in_float32=True)


def _deepseek_v2(router: Any) -> Scoring:
    limited = router.topk_method == "group_limited_greedy"
    return Scoring(
        scale=router.routed_scaling_factor,
        num_groups=router.num_group if limited else 1,
        groups_kept=router.topk_group if limited else 1,
        sorted_slots=False,
        weights_in_float32=True,
    )


def _gpt_oss(router: Any) -> Scoring:
    return Scoring(function="topk_softmax")


FAMILIES: dict[str, Family] = {
    "olmoe": Family("OlmoeTopKRouter", _linear_logits, _softmax),
    "qwen2_moe": Family("Qwen2MoeTopKRouter", _linear_logits, _softmax),
    "qwen3_moe": Family("Qwen3MoeTopKRouter", _linear_logits, _softmax),
    "mixtral": Family("MixtralTopKRouter", _linear_logits, _mixtral),
    "deepseek_v2": Family("DeepseekV2TopkRouter", _float32_logits, _deepseek_v2),
    "gpt_oss": Family("GptOssTopKRouter", _linear_logits_with_bias, _gpt_oss),
}
_BY_ROUTER_CLASS = {family.router_class: family for family in FAMILIES.values()}


def family_name(model: nn.Module) -> str:
    """The model's `model_type` without our prefix."""
    config: Any = getattr(model, "config", None)
    model_type = config.get_text_config().model_type if config is not None else type(model).__name__
    return str(model_type).removeprefix(MODEL_TYPE_PREFIX)


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """The model's MoE layers in order of depth.

    Raises `UnsupportedModelError` for a family that is not in the table, and for a model of a known
    family in which no layer has a router.
    """
    modules = dict(model.named_modules())
    layers = [
        _layer(name, router, modules[name.rpartition(".")[0]], family)
        for name, router in modules.items()
        if (family := _family_of(router)) is not None
    ]
    if not layers:
        name = family_name(model)
        known = ", ".join(sorted(FAMILIES))
        reason = "has no MoE layer" if name in FAMILIES else "is not a family whose routing is known here"
        raise UnsupportedModelError(
            f"a MoE model of a known family is needed; {type(model).__name__} ({name}) {reason}. Known: {known}."
        )
    return layers


def decoder_of(model: nn.Module, layers: list[MoELayer]) -> Any:
    """The module that runs the stack of layers (`OlmoeModel`, say): it sees the attention mask of every forward."""
    parts = layers[0].name.split(".")
    depth = next(index for index, part in enumerate(parts) if part.isdigit())
    return model.get_submodule(".".join(parts[: depth - 1]))


def _family_of(module: nn.Module) -> Family | None:
    return next((_BY_ROUTER_CLASS[c.__name__] for c in type(module).__mro__ if c.__name__ in _BY_ROUTER_CLASS), None)


def _layer(name: str, router: Any, block: Any, family: Family) -> MoELayer:
    return MoELayer(name, router, block.experts, int(router.num_experts), int(router.top_k), family)


def expert_norms(layer: MoELayer) -> Tensor:
    """Frobenius norm of all weights of every expert, `(E,)` float32, for the rule `smallest_norm` (ES-Mag)."""
    squares = [
        parameter.detach().float().pow(2).flatten(1).sum(dim=1)
        for parameter in layer.experts.parameters()
        if parameter.dim() > 1 and len(parameter) == layer.num_experts
    ]
    return torch.stack(squares).sum(dim=0).sqrt()
