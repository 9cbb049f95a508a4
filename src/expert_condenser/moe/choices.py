"""What a layer's router chose, in any forward: of a stock model, or of one that is attached."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from expert_condenser.moe.layers import MoELayer

Listener = Callable[[Tensor, Tensor], None]
"""Gets the weights `(T, S)` and the indices `(T, S)`."""


def on_choice(layer: MoELayer, listener: Listener) -> Any:
    """Call `listener` after every choice of the layer's router, until the handle that is returned is removed."""

    def heard(router: Any, args: tuple[Any, ...], output: Any) -> None:
        _, weights, indices, *_ = output
        listener(weights, indices)

    return layer.router.register_forward_hook(heard)
