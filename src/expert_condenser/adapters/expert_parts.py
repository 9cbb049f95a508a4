"""An adapter on fused experts, one expert at a time: whose part learns, and the weights that it makes.

PEFT wraps the experts once per fused weight `(E, ...)`, and keeps one A `(r * E, in)` and one B `(out, r * E)`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import MoELayer


class PartlyFrozenWrapper(ParamWrapper):
    """PEFT's wrapper of a fused weight, whose parts on all but the `trained_experts` get no gradient.

    The part of an expert is computed as ever and detached, so that no copy, load or move of the model sets it free.
    """

    trained_experts: Tensor
    """`(E,)` bool."""

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor, float]:
        """As PEFT's: the two factors of the delta, `(E, ..., r)` and `(E, r, ...)`, and its scale."""
        left, right, scale = super().get_delta_factors(adapter_name)
        return self._detach_others(left), self._detach_others(right), scale

    def get_delta_weight(self, adapter_name: str, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's: what the adapter adds to the fused weight, `(E, ...)`."""
        return self._detach_others(super().get_delta_weight(adapter_name, *args, **kwargs))

    def _detach_others(self, value: Tensor) -> Tensor:
        return torch.where(self.trained_experts[:, None, None], value, value.detach())


def keep_adapters_of(layer: MoELayer, ids: Sequence[int]) -> None:
    """Let the adapter of a layer's experts learn for the experts `ids` only; that of the others stays zero.

    B starts at zero, and without gradient AdamW leaves a zero where it is: the adapted weight of the others is the
    base's. Raises `TrainingError` where the adapter has learnt something for another expert already.
    """
    for wrapper in _wrappers(layer):
        fused = wrapper.get_param()
        chosen = torch.zeros(len(fused), dtype=torch.bool, device=fused.device)
        chosen[list(ids)] = True
        for linear in wrapper.lora_B.values():
            if linear.weight.reshape(len(linear.weight), -1, len(fused))[..., ~chosen].any():
                raise TrainingError(
                    f"{layer.block}.experts has an adapter that is not zero on other experts than {sorted(ids)}, which "
                    "train; begin with a new adapter"
                )
        wrapper.__class__ = PartlyFrozenWrapper
        wrapper.register_buffer("trained_experts", chosen, persistent=False)


@torch.no_grad()
def with_adapter(layer: MoELayer) -> MoELayer:
    """The layer with the weights of its experts as they act, float32: of an adapter in effect, base + scale * B A.

    For what reads weights, such as `expert_norms`: the parameters of a wrapped layer are the base's, and A and B.
    """
    wrappers = list(_wrappers(layer))
    if not wrappers:
        return layer
    weights = {name: value.detach().float() for name, value in wrappers[-1].base_layer.named_parameters()}
    for wrapper in wrappers:
        for adapter in [] if wrapper.merged or wrapper.disable_adapters else wrapper.active_adapters:
            if adapter in wrapper.lora_B:
                name = wrapper.parameter_name
                weights[name] = weights[name] + wrapper.get_delta_weight(adapter).float()
    return replace(layer, experts=nn.ParameterList(weights.values()))


def _wrappers(layer: MoELayer) -> Iterator[Any]:
    """PEFT's wrappers around the experts of a layer, the outermost first; none without an adapter on them."""
    wrapper: Any = layer.experts
    while isinstance(wrapper, ParamWrapper):
        yield wrapper
        wrapper = wrapper.base_layer
