"""What DeepSpeed needs that accelerate does not give it: a plugin for every phase, and the MoE blocks as leaves."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from expert_condenser.moe.layers import MoELayer


def begin_phase(args: Any, model: Any, layers: Sequence[MoELayer]) -> None:
    """Give the arguments of a phase a plugin of their own; nothing happens without DeepSpeed.

    accelerate writes the numbers of a training into its plugin, and refuses a second one in the same process. ZeRO-3
    gathers a MoE block as a whole, since it could not foresee in which order a block's weights are read.
    """
    if args.deepspeed_plugin is None:
        return
    AcceleratorState._reset_state()  # there is no public way to a second plugin in one process
    given = getattr(
        args, "hf_deepspeed_config", None
    )  # the plugin's own one; there is none without the option `deepspeed`
    args.deepspeed_plugin, args.hf_deepspeed_config = copy.deepcopy((args.deepspeed_plugin, given))
    if args.deepspeed_plugin.transformer_moe_cls_names is None:
        args.deepspeed_plugin.transformer_moe_cls_names = ",".join(leaves(model, layers))
    if args.deepspeed_plugin.zero_stage == 3 and not any(p.requires_grad for p in embeddings(model)):
        # DeepSpeed reduces a leaf's gradients once its inputs have theirs: too early, where all below is frozen.
        model.enable_input_require_grads()


@contextmanager
def loading_whole(args: Any) -> Iterator[None]:
    """Within, transformers loads a model whole in every process, where ZeRO-3 would have it split from the start.

    That is for models that compute or get an adapter before DeepSpeed has them, and for those of one process alone.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if (given := getattr(args, "hf_deepspeed_config", None)) is not None:
            set_hf_deepspeed_config(given)
        else:
            args.deepspeed_plugin.set_deepspeed_weakref()


def embeddings(model: Any) -> Iterator[Any]:
    """The parameters of the input embeddings."""
    yield from model.get_input_embeddings().parameters()


def leaves(model: Any, layers: Sequence[MoELayer]) -> list[str]:
    """The class names of the modules that hold routers and experts."""
    return sorted({type(model.get_submodule(layer.block)).__name__ for layer in layers})
