"""The engine `ep`: whole experts on each process, everything else split as by FSDP2, by transformers itself.

transformers splits a model while it loads it, so that there is nothing for accelerate to configure: its launcher starts
plain processes, and a variable of the environment says what they are for.
"""

import os
from typing import Any

VARIABLE = "EXPERT_CONDENSER_ENGINE"
"""`ep` in the environment of every process; `condenser train --accelerate_config ep` sets it."""
EP = "ep"


def is_asked() -> bool:
    """Whether this process is one of expert parallelism."""
    return os.environ.get(VARIABLE) == EP


def begin_phase(model: Any) -> None:
    """Replicate the condensers of a prepared model, in every process of expert parallelism."""
    if is_asked():
        from expert_condenser.moe.expert_parallel import replicate_condensers

        replicate_condensers(model)


def loading_options() -> dict[str, Any]:
    """What `from_pretrained` needs: experts over the processes of a machine, condensers on each of them.

    Rows of tokens never leave a machine; machines hold copies of the experts, split like everything else.
    """
    from transformers.distributed import DistributedConfig

    from expert_condenser.moe.expert_parallel import NAME

    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    size = local if world % local == 0 else world
    return {"distributed_config": DistributedConfig(fsdp_size=world, ep_size=size, ep_implementation=NAME)}
