"""Train some experts of a layer and no other: the chosen slices of the fused weights are parameters of their own.

A fused weight `(E, ...)` is frozen, whole; the chosen experts' slices `(N, ...)` train beside it, with gradient
and optimizer state of their own size, so that memory falls with the number of experts and weight decay or
rounding cannot touch the others. Every forward writes the slices into the fused weight, which is thus always
the current model: any experts implementation reads it, and a saved model is a stock checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.split import whole, write, write_rows

SLICES = "trained_slices"


class WriteSlices(torch.autograd.Function):
    """The fused weight with the slices in it; the gradient is that of the slices."""

    @staticmethod
    def forward(ctx: Any, slices: Tensor, fused: Tensor, ids: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(ids)
        fused.data[ids] = slices.to(fused.dtype)
        return fused.data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: D102
        (ids,) = ctx.saved_tensors
        rest = gradients[0].index_fill(0, ids, 0.0) if ctx.needs_input_grad[1] else None
        return gradients[0][ids], rest, None


class WriteAgain(torch.autograd.Function):
    """The experts' output; before their backward pass the slices are written into the fused weights once more.

    FSDP2 lets go of gathered weights after the forward and gathers them anew, without the slices, for the backward.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, experts: "SlicedExperts") -> Tensor:  # noqa: D102
        ctx.experts = experts
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        for name, slices in getattr(ctx.experts, SLICES).items():
            fused = fused_weight(ctx.experts, name)
            if fused.numel() and slices.numel():  # ZeRO-3 keeps what the forward saw, slices included, for the backward
                fused.data[ctx.experts.trained_ids] = slices.detach().to(fused.dtype)
        return gradients[0], None


class SlicedExperts(nn.Module):
    """Mixed into a family's experts class: reading a fused weight gives the one with the slices."""

    rest_trains: bool
    """Whether the fused weights train as well, outside of the slices."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in the family."""
        output: Tensor = super().forward(*args, **kwargs)
        return WriteAgain.apply(output, self) if torch.is_grad_enabled() else output  # type: ignore[no-untyped-call]

    def ids(self) -> tuple[int, ...]:
        """The experts that train, ascending."""
        trained: Any = self.trained_ids
        return tuple(trained.tolist())

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """A fused weight with the slices written into it, without gradient; and the slices, which have one."""
        slices = getattr(self, SLICES)[name]
        fused = fused_weight(self, name)
        with torch.no_grad():
            return WriteSlices.apply(slices, fused, self.trained_ids), slices  # type: ignore[no-untyped-call]

    def write_back(self) -> None:
        """Write the slices into the fused weights, outside of a forward."""
        ids: Any = self.trained_ids
        for name, slices in getattr(self, SLICES).items():
            write_rows(fused_weight(self, name), ids, slices)


def fused_weight(experts: Any, name: str) -> nn.Parameter:
    """The weight itself, such as `(E, ...)` of experts, whatever parts of it train beside it."""
    # The name as an attribute is our property, which writes the slices in; `get_parameter` would read that one too.
    weight: nn.Parameter = experts._parameters[name]
    return weight


@contextmanager
def holding(experts: Any, weights: Mapping[str, Tensor], number: int) -> Iterator[None]:
    """An experts module with other weights, of another number of experts, for the time of a forward."""
    held, count = dict(experts._parameters), experts.num_experts  # a forward reads them from there
    experts._parameters.update(weights)  # no parameters, so they cannot be set as attributes
    experts.num_experts = number
    try:
        yield
    finally:
        experts._parameters.update(held)  # as it was
        experts.num_experts = count


def train_slices(layer: MoELayer, ids: Sequence[int], *, rest: bool = False) -> None:
    """Freeze the experts of a layer except `ids`, which train as slices; in place.

    With `rest` the others train too, as the fused weights: two sets of parameters, for two learning rates.

    Raises `TrainingError` on ids out of range or given twice, and where the experts are not fused weights.
    """
    experts: Any = layer.experts
    _check(layer, ids)
    names = fused_names(layer)
    experts.requires_grad_(rest)
    if not ids:
        return
    experts.rest_trains = rest
    experts.__class__ = _sliced_class(experts.__class__, names)
    first = fused_weight(experts, names[0])
    trained = torch.tensor(sorted(ids), dtype=torch.int64, device=first.device)
    experts.register_buffer("trained_ids", trained, persistent=False)
    slices = {name: nn.Parameter(fused_weight(experts, name).detach()[experts.trained_ids].clone()) for name in names}
    setattr(experts, SLICES, nn.ParameterDict(slices))
    experts.register_state_dict_pre_hook(lambda module, prefix, keep_vars: module.write_back())
    experts.register_state_dict_post_hook(_drop_slices)
    experts.register_load_state_dict_pre_hook(lambda module, *_: module.write_back())  # a load may be of other weights
    experts.register_load_state_dict_post_hook(_reread_slices)


def is_sliced(layer: MoELayer) -> bool:
    """Whether some experts of the layer train as slices."""
    return isinstance(layer.experts, SlicedExperts)


def trained_ids(layer: MoELayer) -> list[int]:
    """The experts of a layer that train as slices, ascending."""
    experts: Any = layer.experts
    return list(experts.ids())


def fused_names(layer: MoELayer) -> tuple[str, ...]:
    """The parameters of the experts that have one slice per expert: weights and biases, in any layout.

    Raises `TrainingError` where there are others, which no slice could train.
    """
    parameters = dict(layer.experts.named_parameters(recurse=False))
    sizes = (layer.num_experts, layer.num_weighted)  # a family may leave rows for experts that are the identity
    names = tuple(name for name, value in parameters.items() if len(value) in sizes)
    rest = sorted({name for name, _ in layer.experts.named_parameters()} - set(names))
    if rest or not names:
        raise TrainingError(
            f"experts train as slices of fused weights, E = {layer.num_experts} of each; {layer.block}.experts has "
            f"{', '.join(rest) or 'no parameter'} besides"
        )
    return names


def write_slices_back(model: nn.Module) -> None:
    """Write all slices of a model into their fused weights; every process of a training has to."""
    for module in model.modules():
        if isinstance(module, SlicedExperts):
            module.write_back()


def without_slices(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the slices, as it is saved."""
    return {name: value for name, value in state.items() if f".{SLICES}." not in name}


def _check(layer: MoELayer, ids: Sequence[int]) -> None:
    if len(set(ids)) != len(ids) or any(not 0 <= i < layer.num_weighted for i in ids):
        raise TrainingError(
            f"{layer.name}: the experts to train are distinct ids in 0..{layer.num_weighted - 1}; got {list(ids)}"
        )


@cache
def _sliced_class(experts_class: Any, names: tuple[str, ...]) -> Any:
    def reader(name: str) -> property:
        def read(self: Any) -> Tensor:
            slices, fused = getattr(self, SLICES)[name], fused_weight(self, name)
            if isinstance(fused, DTensor):  # FSDP2 looks for its parameters here, and no forward reads a part of one
                return fused
            return WriteSlices.apply(slices, fused, self.trained_ids)  # type: ignore[no-untyped-call]

        return property(read)

    body = {name: reader(name) for name in names}
    return type(
        f"Sliced{experts_class.__name__}", (SlicedExperts, experts_class), {**body, "base_class": experts_class}
    )


def _drop_slices(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{SLICES}.")]:
        del state[key]


def _reread_slices(module: Any, keys: Any) -> None:
    """After a load: the slices are those of the fused weights, of the loaded ones where there were any."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if f".{SLICES}." not in key]
    for name, slices in getattr(module, SLICES).items():
        write(slices, whole(fused_weight(module, name))[module.trained_ids])
