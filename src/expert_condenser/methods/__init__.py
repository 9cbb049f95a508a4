"""The methods by name. Adding one is one file with a `Method` and one line here."""

from expert_condenser.methods.base import Method, MethodConfig
from expert_condenser.methods.bias_only import BiasOnly
from expert_condenser.methods.condenser import Condenser
from expert_condenser.methods.densemixer import DenseMixer
from expert_condenser.methods.esft import EsftGate, EsftToken
from expert_condenser.methods.frozen_router import FrozenRouter
from expert_condenser.methods.loss_free import LossFree
from expert_condenser.methods.sft import Sft
from expert_condenser.methods.sft_aux import SftAux

METHODS: dict[str, type[Method]] = {
    "sft": Sft,
    "sft_aux": SftAux,
    "frozen_router": FrozenRouter,
    "loss_free": LossFree,
    "bias_only": BiasOnly,
    "esft_token": EsftToken,
    "esft_gate": EsftGate,
    "densemixer": DenseMixer,
    "condenser": Condenser,
}

__all__ = ["METHODS", "Method", "MethodConfig"]
