"""`router_only`: the routers train and nothing else: is what the experts hold reachable by routing? (*ours*)"""

from torch import nn

from expert_condenser.errors import TrainingError
from expert_condenser.methods.base import Config, Method
from expert_condenser.moe.parameters import freeze, is_adapter, parameter_groups


class RouterOnly(Method):
    """Who gets which token is learnt; what the experts do with it stays."""

    Config = Config
    name = "router_only"
    summary = "fine-tuning of the routers, all other weights as they are"
    paper = "a diagnostic, ours"
    trainable = "the routers"

    def select_trainable(self, model: nn.Module) -> None:
        """The weights of the routers; raises `TrainingError` with an adapter, under which they stay."""
        groups = parameter_groups(model, self.layers)
        if any(map(is_adapter, groups)):
            raise TrainingError(
                "router_only trains the routers' weights, and with an adapter the base stays: drop lora"
            )
        freeze(model, [name for name, group in groups.items() if group != "router"])
