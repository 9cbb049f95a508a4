"""The methods by name. Adding one is one file with a `Method` and one line here."""

from expert_condenser.methods.base import Method, MethodConfig
from expert_condenser.methods.bias_only import BiasOnly
from expert_condenser.methods.condenser import Condenser
from expert_condenser.methods.loss_free import LossFree
from expert_condenser.methods.sft import Sft

METHODS: dict[str, type[Method]] = {
    "sft": Sft,
    "loss_free": LossFree,
    "bias_only": BiasOnly,
    "condenser": Condenser,
}

__all__ = ["METHODS", "Method", "MethodConfig"]
