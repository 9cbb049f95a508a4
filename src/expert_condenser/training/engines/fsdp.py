"""FSDP2: what it gathers at one time, which is a layer of the model by its family's name, and where it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType

from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.own_types import causal_lm


class _WithCpu:
    """accelerate's kinds of processes, with gloo on CPUs in the place of one that may become FSDP."""

    def __getattr__(self, name: str) -> DistributedType:
        return getattr(DistributedType, "MULTI_CPU" if name == "MULTI_MUSA" else name)


@contextmanager
def fsdp_on(device: torch.device) -> Iterator[None]:
    """Within, accelerate takes FSDP2 on CPUs too, where it would run DDP without a word.

    FSDP2 itself works there, which lets a recipe be tried before machines with accelerators are paid for. There is no
    public way: accelerate compares the kind of its processes with a list of accelerators.
    """
    if device.type != "cpu":
        yield
        return
    known = accelerate.state.DistributedType
    accelerate.state.DistributedType = _WithCpu()
    try:
        yield
    finally:
        accelerate.state.DistributedType = known


def name_layers(model: Any, layers: Sequence[MoELayer]) -> list[str]:
    """Leave to a model the names of those layers that it has, in place, and return them.

    Families of images and text name the layers of all their models, and accelerate and PEFT refuse a name that a model
    of text alone does not have. Raises `UnsupportedModelError` where an MoE layer would be gathered with all others.
    """
    inner = causal_lm(model)
    there = {type(module).__name__: None for module in inner.modules()}
    names = sorted(there.keys() & set(inner._no_split_modules or ()))  # both look there and nowhere else
    wrapped = [name for name, module in model.named_modules() if type(module).__name__ in names]
    outside = [layer.name for layer in layers if not any(layer.name.startswith(f"{name}.") for name in wrapped)]
    if outside:
        raise UnsupportedModelError(
            f"FSDP2 splits a model layer by layer, and transformers does not say what a layer of it is; {outside[0]} "
            f"is in none of {names}: set fsdp_transformer_layer_cls_to_wrap in a launch file of your own"
        )
    inner._no_split_modules = set(names)  # of this model alone, as transformers itself sets it
    return names
