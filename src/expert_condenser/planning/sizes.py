"""How large a prepared model is: numbers of parameters, and bytes by what trains and by what is gathered together."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expert_condenser.methods import Method
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.parameters import is_adapter, parameter_groups
from expert_condenser.moe.slices import SLICES

_LAYER = re.compile(r"^.*?\.\d+(?=\.)")


@dataclass(frozen=True)
class Unit:
    """A decoder layer, or (`name` empty) what is in none: what an engine gathers, computes and frees at a time."""

    name: str
    parameters: int
    trainable: int
    experts: int
    """Routed experts among `parameters`."""


@dataclass(frozen=True)
class Weights:
    """One parameter as an optimizer and an engine see it."""

    shape: tuple[int, ...]
    itemsize: int
    trains: bool
    is_expert: bool

    @property
    def count(self) -> int:
        """Numbers in it."""
        product = 1
        for side in self.shape:
            product *= side
        return product


@dataclass(frozen=True)
class Sizes:
    """A model as it trains."""

    total: int
    """Parameters of the base model."""
    active: int
    """Those of them that a token passes."""
    trainable: int
    routed: int
    """Parameters of all routed experts, without adapters."""
    weights: tuple[Weights, ...]
    units: tuple[Unit, ...]
    buffers: int
    """Bytes."""

    def bytes(self, itemsize: Callable[[Weights], int], which: Callable[[Weights], bool] = lambda _: True) -> int:
        """Bytes of the parameters that `which` names, each of `itemsize`."""
        return sum(weights.count * itemsize(weights) for weights in self.weights if which(weights))

    def largest_units(self) -> list[Unit]:
        """Decoder layers, the largest first."""
        return sorted((unit for unit in self.units if unit.name), key=lambda unit: -unit.parameters)

    @property
    def root(self) -> Unit:
        """Embeddings, head and last norm."""
        return next((unit for unit in self.units if not unit.name), Unit("", 0, 0, 0))


def sizes_of(model: Any, method: Method) -> Sizes:
    """Count a model that its method has prepared."""
    named, layers = dict(model.named_parameters()), method.layers
    groups = parameter_groups(model, layers)
    own = {name: p for name, p in named.items() if not is_adapter(name) and f".{SLICES}." not in name}
    routed = {name: p.numel() for name, p in own.items() if groups[name] == "routed experts"}
    idle = sum(_idle(layer, routed) for layer in layers)
    total = sum(p.numel() for p in own.values())
    return Sizes(
        total=total,
        active=total - idle,
        trainable=sum(p.numel() for p in named.values() if p.requires_grad),
        routed=sum(routed.values()),
        weights=tuple(
            Weights(tuple(p.shape), p.element_size(), p.requires_grad, groups[name] == "routed experts")
            for name, p in named.items()
        ),
        units=_units(named, groups),
        buffers=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
    )


def _idle(layer: MoELayer, routed: dict[str, int]) -> int:
    """Parameters of a layer's experts that a token does not pass."""
    of_layer = sum(count for name, count in routed.items() if name.startswith(f"{layer.block}.experts."))
    return of_layer * (layer.num_experts - layer.top_k) // layer.num_experts


def _units(named: dict[str, Tensor], groups: dict[str, Any]) -> tuple[Unit, ...]:
    members = defaultdict(list)
    for name, parameter in named.items():
        found = _LAYER.match(name)
        members[found[0] if found else ""].append((name, parameter))
    return tuple(
        Unit(
            unit,
            sum(p.numel() for _, p in own),
            sum(p.numel() for _, p in own if p.requires_grad),
            sum(p.numel() for name, p in own if groups[name] == "routed experts"),
        )
        for unit, own in members.items()
    )
