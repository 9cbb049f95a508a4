"""What a layer's router chose, in any forward: of a stock model, or of one that is attached."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from expert_condenser.moe.handover import Choice
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.router import PolicyRouter

Listener = Callable[[Choice], None]


def on_choice(layer: MoELayer, listener: Listener) -> Callable[[], None]:
    """Call `listener` after every choice of the layer's router, until the function that is returned is called."""
    if isinstance(layer.router, PolicyRouter):
        return _of_ours(layer.router, listener)
    if layer.rule.handover.in_block:
        return _of_a_block(layer, listener)

    def heard(router: Any, args: tuple[Any, ...], output: Any) -> None:
        listener(layer.rule.handover.read(router, output, args[0]))

    stop: Callable[[], None] = layer.router.register_forward_hook(heard).remove
    return stop


def _of_ours(router: PolicyRouter, listener: Listener) -> Callable[[], None]:
    """A router with a policy, or one that is counted, says what it chose."""
    router.listeners = (*router.listeners, listener)

    def stop() -> None:
        router.listeners = tuple(other for other in router.listeners if other is not listener)

    return stop


def _of_a_block(layer: MoELayer, listener: Listener) -> Callable[[], None]:
    """Where a stock block chooses, its router returns the logits, and its experts get the choice."""
    logits: list[Tensor] = []

    def heard(router: Any, args: tuple[Any, ...], output: Tensor) -> None:
        logits[:] = [output]

    def chosen(experts: Any, args: tuple[Any, ...]) -> None:
        _, indices, weights = args
        listener(Choice(logits.pop(), weights, indices))

    handles = (
        layer.router.router.register_forward_hook(heard),
        layer.experts.register_forward_pre_hook(chosen),
    )

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop
