"""How many condensers each layer gets.

`allocate_*` spread a number of condensers over the layers; an `Allocation` is such a spread as a recipe says it. The
same input gives the same result on every machine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from expert_condenser.errors import RoutingError


def allocate_uniform(num_layers: int, per_layer: int) -> list[int]:
    """The same `R` in every layer; `RoutingError` for `num_layers < 1` or a negative `R`."""
    _check_allocation(num_layers, [per_layer])
    return [per_layer] * num_layers


def allocate_thirds(num_layers: int, thirds: tuple[int, int, int]) -> list[int]:
    """One `R` for the first, the middle and the last third of the stack, `(4, 2, 0)` for instance.

    The thirds differ by one layer at most: of a remainder of one the first third takes it, of two the first and the
    middle one take one each (26 layers: 9, 9, 8). `RoutingError` for `num_layers < 3` or a negative `R`.
    """
    _check_allocation(num_layers, thirds)
    if num_layers < 3:
        raise RoutingError(f"thirds need at least 3 MoE layers; got {num_layers}; use one R for all layers")
    sizes = [(num_layers + 2 - third) // 3 for third in range(3)]
    return [r for r, size in zip(thirds, sizes, strict=True) for _ in range(size)]


def allocate_by_gini(gini: Float[Tensor, " L"], total: int, *, power: float = 1.0, maximum: int) -> list[int]:
    """Spread `total` condensers over layers in proportion to `gini ** power`, at most `maximum` in a layer.

    A layer whose part exceeds `maximum` gets `maximum`, and the rest is shared anew among the others; layers share
    equally when all that are left have weight 0. Parts are rounded by the largest remainder method (ties: lower layer
    first), so the sum is `total` exactly. Power 0 spreads evenly, a larger one favours concentrated layers more.
    `RoutingError` for `total < 0` or `total > L * maximum`, an index outside [0, 1], or a negative power.
    """
    num_layers = gini.numel()
    _check_allocation(num_layers, [total])
    if total > num_layers * maximum:
        raise RoutingError(
            f"{num_layers} layers of at most {maximum} condensers hold {num_layers * maximum}; got a total of {total}; "
            "lower the total"
        )
    values = gini.detach().cpu().double()
    if not ((values >= 0) & (values <= 1)).all() or not 0 <= power < float("inf"):
        raise RoutingError(
            f"Gini indices lie in [0, 1] and the power is finite and >= 0; got {values.tolist()} and power {power}; "
            "compute the indices from counted usage"
        )
    return _round_parts(_capped_parts(values**power, total, maximum), total)


@dataclass(frozen=True)
class Allocation:
    """How many condensers each layer gets, as a recipe says it; read once, where the recipe is read.

    `2` uniform · `4/2/0` first, middle and last third · `gini:2` proportional to the layers' Gini index with a
    mean of 2 per layer (total `2 L`) · `gini:2:1.5` the same with power 1.5.
    """

    numbers: tuple[int, ...]
    """One R for every layer, or one per third; with `gini_power` the mean over layers."""
    gini_power: float | None = None

    @classmethod
    def parse(cls, text: object) -> "Allocation":
        """From a recipe's text, or a number; an allocation is itself. Raises `RoutingError` on any other form."""
        if isinstance(text, Allocation):
            return text
        form = _FORM.fullmatch(str(text).strip())
        if form is None:
            raise RoutingError(
                f'condensers per layer are "2", "4/2/0", "gini:2" or "gini:2:1.5"; got "{text}"; use one of these forms'
            )
        uniform, first, middle, last, mean, power = form.groups()
        if mean is not None:
            return cls((int(mean),), float(power or 1))
        return cls((int(uniform),) if uniform is not None else (int(first), int(middle), int(last)))

    def __str__(self) -> str:
        text = "/".join(map(str, self.numbers))
        if self.gini_power is None:
            return text
        return f"gini:{text}" + (f":{self.gini_power:g}" if self.gini_power != 1 else "")

    def per_layer(self, num_layers: int, gini: Float[Tensor, " L"] | None, maximum: int) -> list[int]:
        """`R` of each of `num_layers` layers.

        Raises:
            RoutingError: no `gini` for a form that needs it, or `R > maximum`, naming the layers.
        """
        if self.gini_power is not None:
            if gini is None or gini.numel() != num_layers:
                got = "none" if gini is None else f"{gini.numel()} values"
                raise RoutingError(
                    f'"{self}" needs a Gini index for each of {num_layers} layers; got {got}; count usage first'
                )
            return allocate_by_gini(gini, self.numbers[0] * num_layers, power=self.gini_power, maximum=maximum)
        if len(self.numbers) == 1:
            counts = allocate_uniform(num_layers, self.numbers[0])
        else:
            first, middle, last = self.numbers
            counts = allocate_thirds(num_layers, (first, middle, last))
        if over := [f"layer {layer}: R = {r}" for layer, r in enumerate(counts) if r > maximum]:
            raise RoutingError(f'a layer has at most {maximum} condensers; got "{self}": {", ".join(over)}; lower R')
        return counts


_FORM = re.compile(r"(\d+)|(\d+)/(\d+)/(\d+)|gini:(\d+)(?::(\d+(?:\.\d+)?))?", re.ASCII)


def _capped_parts(weights: Float64[Tensor, " L"], total: int, maximum: int) -> Float64[Tensor, " L"]:
    """`total * w / sum(w)` with every part at most `maximum`; what a cap cuts off goes to the uncapped layers."""
    parts = torch.zeros_like(weights)
    free = torch.ones_like(weights, dtype=torch.bool)
    while free.any():
        shares = weights[free] if weights[free].sum() > 0 else torch.ones_like(weights[free])
        parts[free] = (total - maximum * int((~free).sum())) * shares / shares.sum()
        capped = free & (parts > maximum)
        if not capped.any():
            break
        parts[capped] = maximum
        free &= ~capped
    return parts


def _round_parts(parts: Float64[Tensor, " L"], total: int) -> list[int]:
    """Largest remainder method: floors, and one more for the largest remainders until the sum is `total`."""
    floors = parts.floor()
    missing = total - int(floors.sum())
    remainders = (parts - floors).round(decimals=6)  # float noise must not decide a tie
    floors[(-remainders).argsort(stable=True)[:missing]] += 1
    return [int(r) for r in floors]


def _check_allocation(num_layers: int, counts: Sequence[int]) -> None:
    if num_layers < 1 or any(r < 0 for r in counts):
        raise RoutingError(
            f"an allocation needs at least one layer and R >= 0; got {num_layers} layers and {counts}; correct them"
        )
