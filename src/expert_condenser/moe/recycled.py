"""`budget: recycle`: condensers beside the K chosen experts, with gates of their own that start at zero (*ours*).

    y(x) = sum_{i in top K} s_i E_i(x) + S_K sum_{c in C} tanh(a_c + v_c . x) E_c(x)

`S_K` is the sum of the K weights. The gates `a` (R,) and `v` (R, D) are parameters of the router, saved and loaded with
it. At 0 the layer is the base's, to the bit: what the family computes stays as it is, and zeros are added to it. The
gates have a gradient at once, the condensers through them as soon as they are not 0.
"""

from typing import Any

from torch import Tensor, nn

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.functional.gate_mass import recycled_gates
from expert_condenser.moe.handover import TUPLE
from expert_condenser.moe.layers import MoELayer

OFFSET, DIRECTION = GATES = ("recycled_offset", "recycled_direction")
"""The names of `a` and `v` in a router."""


def check_recycling(layer: MoELayer) -> None:
    """Raise `UnsupportedModelError` where experts cannot be added to the output as the formula says."""
    rule = layer.rule
    if rule.handover is not TUPLE or rule.sparse_gradient_only is not None or layer.num_weighted < layer.num_experts:
        raise UnsupportedModelError(
            f"budget 'recycle' adds experts to a sum of outputs that is weighed by a router of its own; {layer.name} "
            f"({type(layer.router).__name__}) has none such. Take budget 'shared' or 'additive'."
        )


def make_gates(router: Any, count: int) -> None:
    """Give a router gates for `count` condensers, all of them zero; those that it had are gone."""
    remove_gates(router)
    if count:
        rows = next(p for p in router.parameters() if p.dim() == 2 and len(p) >= router.num_experts)
        router.register_parameter(OFFSET, nn.Parameter(rows.new_zeros(count)))
        router.register_parameter(DIRECTION, nn.Parameter(rows.new_zeros(count, rows.shape[1])))


def remove_gates(router: Any) -> None:
    """Take the gates away, if there are any."""
    for name in gates_of(router):
        delattr(router, name)


def gates_of(router: Any) -> dict[str, nn.Parameter]:
    """The gates of a router by name; empty where it has none."""
    return {name: router.get_parameter(name) for name in GATES if hasattr(router, name)}


def install_recycling(layer: MoELayer) -> None:
    """Let the experts of a layer add its condensers' part to their output."""
    layer.router.recycle_hook = layer.experts.register_forward_hook(_AddCondensers(layer.router))


def remove_recycling(router: Any) -> None:
    """Undo `install_recycling`, and take the gates away."""
    router.recycle_hook.remove()
    del router.recycle_hook
    remove_gates(router)


class _AddCondensers:
    """After the experts' forward, whose arguments say all that is needed: also when a layer is recomputed."""

    def __init__(self, router: Any) -> None:
        self.router = router

    def __call__(self, experts: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        router = self.router
        if not len(router.condenser_ids):
            return None
        hidden, _, weights = args
        gates = recycled_gates(hidden, weights, router.recycled_offset, router.recycled_direction).to(weights.dtype)
        ids = router.condenser_ids.to(hidden.device).expand(len(gates), -1)
        added: Tensor = experts.forward(hidden, ids, gates)
        return output + added
