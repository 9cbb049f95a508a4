"""LoRA adapters of MoE models with PEFT: on attention, on the fused experts, on the routers; with the router state.

An adapter of a model with a routing policy carries its bias and condensers. Stock PEFT would drop both, so such
an adapter has a type of its own, which PEFT knows once `expert_condenser` is imported and refuses otherwise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

from expert_condenser.architectures import causal_lm, make_room
from expert_condenser.attach import attach
from expert_condenser.errors import RoutingError, TrainingError
from expert_condenser.models import MoELayer, moe_layers
from expert_condenser.parameters import parameter_groups
from expert_condenser.router import PolicyRouter
from expert_condenser.routing import RoutingConfig

LORA = ("attention", "experts", "attention+experts")
OWN_TYPE = "LORA (the routing of this adapter needs: pip install expert-condenser)"
"""PEFT's `peft_type` of an adapter with router state: the message of its refusal where we are not imported."""
STATE = ("selection_bias", "condenser_ids")


@dataclass
class AdapterConfig:
    """The options of an adapter."""

    lora: str | None = field(
        default=None, metadata={"help": "Train a LoRA adapter on 'attention', 'experts', or 'attention+experts'."}
    )
    lora_r: int = field(default=32, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=64, metadata={"help": "The adapter is scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter; not on experts, routers."})
    lora_dora: bool = field(default=False, metadata={"help": "DoRA: learn magnitudes as well; on attention only."})

    def check_adapter(self, router: str | None) -> None:
        """Raise `TrainingError` on options that have no meaning, together with the option `router`."""
        targets = self.adapter_targets(router)
        if self.lora is None:
            defaults = AdapterConfig()
            idle = [name for name, value in asdict(defaults).items() if getattr(self, name) != value]
            if idle:
                raise TrainingError(f"{', '.join(idle)} is of an adapter, and there is none: set lora")
            return
        if self.lora not in LORA:
            raise TrainingError(f"lora is one of {', '.join(LORA)} (routers: router='lora'); got {self.lora!r}")
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise TrainingError(f"lora_r and lora_alpha are at least 1; got {self.lora_r} and {self.lora_alpha}")
        if targets != ["attention"] and (self.lora_dropout or self.lora_dora):
            raise TrainingError(
                "PEFT adapts experts and routers as fused parameters, where neither lora_dropout nor lora_dora exists; "
                f"got lora={'+'.join(targets)}, lora_dropout={self.lora_dropout}, lora_dora={self.lora_dora}"
            )

    def adapter_targets(self, router: str | None) -> list[str]:
        """What the adapter acts on; the routers only if asked for by `router='lora'`."""
        parts = [] if self.lora is None else self.lora.split("+")
        return [*parts, "router"] if router == "lora" and parts else parts


@dataclass
class CondenserLoraConfig(LoraConfig):
    """LoRA on a model with a routing policy."""

    condenser: dict[str, Any] | None = field(default=None, metadata={"help": "Routing policy, condensers per layer."})

    def __post_init__(self) -> None:
        """As LoRA, under its own type."""
        super().__post_init__()
        self.peft_type = OWN_TYPE


class CondenserLoraModel(LoraModel):
    """Attaches the routing policy to the base before the adapter, and saves the router state with it."""

    def __init__(self, model: Any, config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        saved = config[adapter_name].condenser if isinstance(config, dict) else config.condenser
        found = getattr(moe_layers(model)[0].router, "policy", None)
        if isinstance(moe_layers(model)[0].router, PolicyRouter):
            if found is None or asdict(found) != asdict(RoutingConfig(**saved["routing"])):
                raise RoutingError(
                    f"the adapter was trained with the routing {saved['routing']}; the base has {found}. Load it onto "
                    "a plain base: detach(model) first."
                )
        else:
            attach(model, RoutingConfig(**saved["routing"]))
            make_room(model, saved["condensers_per_layer"])
            if (inner := causal_lm(model)) is not None:
                inner.config.condenser["condensers_per_layer"] = list(saved["condensers_per_layer"])
        super().__init__(model, config, adapter_name, *args, **kwargs)

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, for one adapter: the routers have one bias and one set of condensers."""
        if len(self.peft_config) > 1:
            raise RoutingError("a model has one adapter with router state; load a second one onto another base")
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    @classmethod
    def _get_adapter_state_dict(cls, model: Any, config: Any, **options: Any) -> Any:
        routers = moe_layers(model)
        config.condenser["condensers_per_layer"] = [len(layer.router.condenser_ids) for layer in routers]
        own = super()._get_adapter_state_dict(model=model, config=config, **options)
        return own | {key: value for key, value in options["state_dict"].items() if key.endswith(STATE)}


def register_adapter_type() -> None:
    """Make PEFT know the own type (done when `expert_condenser` is imported)."""
    PEFT_TYPE_TO_CONFIG_MAPPING[OWN_TYPE] = CondenserLoraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[OWN_TYPE] = CondenserLoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[OWN_TYPE] = "lora_"


def add_adapter(model: Any, options: AdapterConfig, targets: Sequence[str], routing: RoutingConfig | None) -> Any:
    """Wrap a plain model into a `PeftModel` with a new adapter; with a policy, that is attached first.

    Raises `TrainingError` where a target matches nothing.
    """
    modules, parameters = _find(model, targets)
    common = {
        "r": options.lora_r,
        "lora_alpha": options.lora_alpha,
        "lora_dropout": options.lora_dropout,
        "use_dora": options.lora_dora,
        "target_modules": modules,
        "target_parameters": parameters or None,
        "task_type": TaskType.CAUSAL_LM,
    }
    if routing is None:
        return get_peft_model(model, LoraConfig(**common))
    state = {"routing": asdict(routing), "condensers_per_layer": [0] * len(moe_layers(model))}
    return get_peft_model(model, CondenserLoraConfig(**common, condenser=state))


def _find(model: nn.Module, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the linear modules and of the bare parameters that the targets mean."""
    layers = moe_layers(model)
    groups = parameter_groups(model, layers)
    group_of = {"attention": "attention", "experts": "routed experts", "router": "router"}
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    modules: list[str] = []
    parameters: list[str] = []
    for target in targets:
        names = [n for n, p in model.named_parameters() if groups[n] == group_of[target] and p.dim() in (2, 3)]
        if target == "experts":
            names = [name for name in names if model.get_parameter(name).dim() == 3]
        of_modules = [n.rpartition(".")[0] for n in names if n.rpartition(".")[0] in linear]
        bare = [n for n in names if n.rpartition(".")[0] not in linear and target != "attention"]
        if not of_modules and not bare:
            raise TrainingError(f"lora adapts {target}, and this model has no weight of that kind")
        modules += of_modules
        parameters += bare
    return modules, parameters


def keep_adapters_of(layer: MoELayer, ids: Sequence[int]) -> None:
    """Let the adapter of a layer's experts learn for the experts `ids` only; that of the others stays zero.

    PEFT keeps one adapter for all experts, B as `(out, r * E)` with the expert as the fast axis. B starts at
    zero, and without gradient AdamW leaves a zero where it is: the adapted weight of the others is the base's.
    """
    chosen = torch.zeros(layer.num_experts, dtype=torch.bool)
    chosen[list(ids)] = True
    wrapper = layer.experts
    while isinstance(wrapper, ParamWrapper):
        for linear in wrapper.lora_B.values():
            weight = cast(Any, linear).weight
            mask = chosen.repeat(weight.shape[1] // layer.num_experts).to(weight.device)
            weight.register_hook(lambda gradient, mask=mask: gradient * mask)
        wrapper = wrapper.base_layer
