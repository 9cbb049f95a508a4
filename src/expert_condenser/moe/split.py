"""Weights that an engine has split over processes: DTensors (FSDP2, expert parallelism), and those of DeepSpeed ZeRO-3.

Every function here is of all processes at once, and must be called by each of them. Whole weights pass through.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor


def is_split(model: nn.Module) -> bool:
    """Whether the weights of a model are split over processes, by FSDP, expert parallelism or ZeRO-3."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(_of_zero3(parameter) or isinstance(parameter, DTensor) for parameter in model.parameters())


def is_zero3(model: nn.Module) -> bool:
    """Whether DeepSpeed ZeRO-3 has split the weights of a model."""
    return any(map(_of_zero3, model.parameters()))


def numel(weight: Tensor) -> int:
    """How many numbers a weight has as a whole."""
    # ZeRO-3 leaves nothing in a parameter that it has split, and notes there how large it is.
    return int(getattr(weight, "ds_numel", weight.numel()))


def whole(weight: Tensor) -> Tensor:
    """The whole weight, without gradient; of a split one a copy, of another the weight itself."""
    with torch.no_grad():
        if isinstance(weight, DTensor):
            return weight.full_tensor()
        if _of_zero3(weight):
            with gathered([weight]):
                return weight.detach().clone()
        return weight.detach()


def readable(weight: Tensor) -> Tensor:
    """A weight to compute with, without gradient: a DTensor is one, what ZeRO-3 has split is gathered."""
    return whole(weight) if _of_zero3(weight) else weight.detach()


@torch.no_grad()
def total(weights: Sequence[Tensor]) -> Tensor:
    """The sum of all numbers of several weights or gradients, each on a device and split in a way of its own."""
    parts = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    found = torch.stack([part.sum().to(parts[0].device) for part in parts]).sum()
    if any(isinstance(weight, DTensor) for weight in weights):
        torch.distributed.all_reduce(found)
    return found


@torch.no_grad()
def write(weight: Tensor, values: Tensor) -> None:
    """Give a weight new values, in place; `values` are whole, and the same in every process."""
    if isinstance(weight, DTensor):
        # Every process has the values: none of them has to send its own (`src_data_rank` None).
        part = distribute_tensor(values, weight.device_mesh, weight.placements, src_data_rank=None)
        weight.to_local().copy_(part.to_local())
    elif _of_zero3(weight):
        with gathered([weight], changed=True):
            weight.data.copy_(values)
    else:
        weight.copy_(values)


@torch.no_grad()
def write_rows(weight: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Give the rows `ids` (N,) of a weight `(E, ...)` new values `(N, ...)`, in place; both may be split."""
    if not _is_split(weight) and not _is_split(rows):
        weight.data[ids] = rows.to(weight.dtype)
        return
    changed = whole(weight).clone()
    changed[ids] = whole(rows).to(changed)
    write(weight, changed)


@contextmanager
def gathered(weights: list[Tensor], *, changed: bool = False) -> Iterator[None]:
    """Weights of ZeRO-3, whole within; `changed` ones are split again as the first process has them."""
    from deepspeed import zero

    with zero.GatheredParameters(weights, modifier_rank=0 if changed else None):
        yield


def _is_split(weight: Tensor) -> bool:
    return isinstance(weight, DTensor) or _of_zero3(weight)


def _of_zero3(weight: Any) -> bool:
    # DeepSpeed's mark on the parameters that it has split; it has no public question for one of them.
    return hasattr(weight, "ds_id")
