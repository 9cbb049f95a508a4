"""What DeepSpeed needs that accelerate does not give it: a plugin for every phase, and the MoE blocks as leaves."""

import copy
from collections.abc import Sequence
from typing import Any

from accelerate.state import AcceleratorState

from expert_condenser.moe.layers import MoELayer


def begin_phase(args: Any, model: Any, layers: Sequence[MoELayer]) -> None:
    """Give the arguments of a phase a plugin of their own; nothing happens without DeepSpeed.

    accelerate writes the numbers of a training into its plugin, and refuses a second one in the same process. ZeRO-3
    gathers a MoE block as a whole, since it could not foresee in which order a block's weights are read.
    """
    if args.deepspeed_plugin is None:
        return
    AcceleratorState._reset_state()  # there is no public way to a second plugin in one process
    given = getattr(args, "hf_deepspeed_config", None)  # the plugin's own one; there is none without the option `deepspeed`
    args.deepspeed_plugin, args.hf_deepspeed_config = copy.deepcopy((args.deepspeed_plugin, given))
    if args.deepspeed_plugin.transformer_moe_cls_names is None:
        args.deepspeed_plugin.transformer_moe_cls_names = ",".join(leaves(model, layers))


def leaves(model: Any, layers: Sequence[MoELayer]) -> list[str]:
    """The class names of the modules that hold routers and experts."""
    return sorted({type(model.get_submodule(layer.block)).__name__ for layer in layers})
