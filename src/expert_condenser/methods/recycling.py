"""What trains under `budget: recycle`: the condensers and their gates, and the rest at kappa times the rate."""

from collections.abc import Sequence

from torch import nn

from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.recycled import gates_of
from expert_condenser.moe.slices import SLICES, is_sliced, train_slices


def train_recycled(model: nn.Module, layers: Sequence[MoELayer], kappa: float) -> None:
    """Set what trains, in place: the gates; with kappa below 1 the condensers as slices, with 0 nothing else."""
    if kappa == 0:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{SLICES}." in name)
    for layer in layers:
        ids = layer.router.condenser_ids.tolist()
        if kappa < 1 and not is_sliced(layer):
            train_slices(layer, ids, rest=kappa > 0)
        for gate in gates_of(layer.router).values():
            gate.requires_grad_(True)


def rest_of(model: nn.Module, layers: Sequence[MoELayer], kappa: float) -> dict[str, float]:
    """`{parameter name: kappa}` of all that trains besides the condensers and their gates."""
    own = {f"{layer.name}.{name}" for layer in layers for name in gates_of(layer.router)}
    trains = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: kappa for name in trains if name not in own and f".{SLICES}." not in name}
