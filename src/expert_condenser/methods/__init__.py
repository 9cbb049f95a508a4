"""The methods by name. Adding one is one file with a `Method` and its `Config`, and one line here."""

from dataclasses import field, fields, make_dataclass
from typing import Any

from expert_condenser.methods.base import Method
from expert_condenser.methods.bias_only import BiasOnly
from expert_condenser.methods.condenser import Condenser, CondenserConfig
from expert_condenser.methods.densemixer import DenseMixer
from expert_condenser.methods.esft import EsftGate, EsftToken
from expert_condenser.methods.frozen_router import FrozenRouter
from expert_condenser.methods.loss_free import LossFree
from expert_condenser.methods.router_only import RouterOnly
from expert_condenser.methods.selection_bias import SelectionBiasConfig
from expert_condenser.methods.sft import Sft
from expert_condenser.methods.sft_aux import SftAux
from expert_condenser.methods.smt import Smt

METHODS: dict[str, type[Method]] = {
    "sft": Sft,
    "sft_aux": SftAux,
    "frozen_router": FrozenRouter,
    "loss_free": LossFree,
    "bias_only": BiasOnly,
    "esft_token": EsftToken,
    "esft_gate": EsftGate,
    "densemixer": DenseMixer,
    "smt": Smt,
    "router_only": RouterOnly,
    "condenser": Condenser,
}

_OPTIONS = {option.name: option for method in METHODS.values() for option in fields(method.Config)}
MethodConfig: Any = make_dataclass(
    "MethodConfig",
    [(o.name, o.type, field(default=o.default, metadata=o.metadata)) for o in _OPTIONS.values()],
    frozen=True,
    namespace={
        "routing": SelectionBiasConfig.routing,
        "condenser_switches": CondenserConfig.condenser_switches,
        "__doc__": "The options of all methods, each its default.",
    },
)

__all__ = ["METHODS", "Method", "MethodConfig"]
