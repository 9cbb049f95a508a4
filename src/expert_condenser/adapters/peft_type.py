"""An adapter that carries the router state: its bias and condensers are saved and loaded with it.

Stock PEFT would drop both, so such an adapter has a type of its own, which PEFT knows once `expert_condenser` is
imported and refuses otherwise.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel

from expert_condenser.adapters.in_effect import RoutingInEffect
from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach, detach
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import causal_lm, make_room
from expert_condenser.moe.state import check_complete, read_section


class AdapterType(str):
    """A `peft_type` that is no member of PEFT's enum, with the attribute that transformers reads of one."""

    @property
    def value(self) -> str:
        """The word in the names of the adapter's weights, `lora_A`."""
        return "LORA"


OWN_TYPE = AdapterType("LORA (the routing of this adapter needs: pip install expert-condenser)")
"""PEFT's `peft_type` of an adapter with router state: the message of its refusal where we are not imported."""
ONE_ADAPTER = (
    "a model has one adapter with router state, and this model has it already; load the other one onto another base "
    "(and give a trainer that copies the adapter as its reference a reference model)"
)
STATE = ("selection_bias", "condenser_ids")


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
        if hasattr(model, "peft_config"):
            raise RoutingError(ONE_ADAPTER)
        own = config[adapter_name] if isinstance(config, dict) else config
        policy, condensers = read_section(own.condenser, moe_layers(model))  # refuses what cannot be read
        _attach_for(model, policy)
        make_room(model, condensers)
        if own.inference_mode:  # it was saved: what its file does not fill in is found in the first forward
            for layer in moe_layers(model):
                layer.router.selection_bias.fill_(torch.nan)
        if (inner := causal_lm(model)) is not None:
            inner.config.condenser["condensers_per_layer"] = condensers
        super().__init__(model, config, adapter_name, *args, **kwargs)
        self.routing_in_effect = RoutingInEffect(model, adapter_name)

    def unload(self) -> Any:
        """As in PEFT: the base, so without the routing too."""
        self.routing_in_effect.remove()
        return detach(super().unload())

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> Any:
        """As in PEFT: one model with the adapter in its weights, which keeps bias and condensers."""
        self.routing_in_effect.remove()
        return super().merge_and_unload(*args, **kwargs)

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, for one adapter: the routers have one bias and one set of condensers."""
        if len(self.peft_config) > 1:
            del self.peft_config[adapter_name]  # not every caller in PEFT and transformers takes it back
            raise RoutingError(ONE_ADAPTER)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    @classmethod
    def _get_adapter_state_dict(cls, model: Any, config: Any, **options: Any) -> Any:
        """As PEFT's, with the router state; PEFT asks the tuner's class here for what it saves, and nowhere public."""
        routers = moe_layers(model)
        config.condenser["condensers_per_layer"] = [len(layer.router.condenser_ids) for layer in routers]
        own = super()._get_adapter_state_dict(model=model, config=config, **options)
        return own | {key: value for key, value in options["state_dict"].items() if key.endswith(STATE)}

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model: Any, *, state_dict: Any, **options: Any) -> Any:
        """As PEFT's, of an adapter with the state of every router; PEFT shows the tuner's class here what it loads."""
        check_complete(state_dict, moe_layers(model))
        return super()._remap_adapter_state_dict_for_load(model=model, state_dict=state_dict, **options)


def _attach_for(model: Any, policy: RoutingConfig) -> None:
    """Attach the adapter's policy to its base; one that is attached already has this policy, and nothing learnt."""
    attached = find_attachment(model)
    if attached is None:
        attach(model, policy)
        return
    learnt = attached.policy is not None and any(
        layer.router.selection_bias.any() or layer.router.condenser_ids.numel() for layer in moe_layers(model)
    )
    if attached.policy != policy or learnt:
        raise RoutingError(
            f"an adapter brings its own routing, {policy}, with its bias and condensers; the base has "
            f"{attached.policy}{', with others' if learnt else ''}. Load it onto a plain base: detach(model) first."
        )


def register_adapter_type() -> None:
    """Make PEFT know the own type (done when this module is imported)."""
    PEFT_TYPE_TO_CONFIG_MAPPING[OWN_TYPE] = CondenserLoraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[OWN_TYPE] = CondenserLoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[OWN_TYPE] = "lora_"


register_adapter_type()
