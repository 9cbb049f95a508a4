"""expert-condenser: fine-tune Mixture-of-Experts language models and keep their long-tailed experts."""

from expert_condenser.adapters.peft_type import register_adapter_type
from expert_condenser.functional.bias import update_bias
from expert_condenser.functional.routing import RoutingConfig, route
from expert_condenser.functional.selection import select_condensers
from expert_condenser.methods import METHODS, MethodConfig
from expert_condenser.moe.attach import attach, detach, set_condensers
from expert_condenser.moe.experts import register_implementation
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import register
from expert_condenser.training.callback import MethodCallback

__all__ = [
    "METHODS",
    "MethodCallback",
    "MethodConfig",
    "RoutingConfig",
    "attach",
    "detach",
    "moe_layers",
    "route",
    "select_condensers",
    "set_condensers",
    "update_bias",
]

register()
register_adapter_type()
register_implementation()
