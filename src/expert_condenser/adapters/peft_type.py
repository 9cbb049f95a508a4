"""An adapter that carries the router state: its bias and condensers are saved and loaded with it.

Stock PEFT would drop both, so such an adapter has a type of its own, which PEFT knows once `expert_condenser` is
imported and refuses otherwise.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import causal_lm, make_room
from expert_condenser.moe.state import check_complete, read_section

OWN_TYPE = "LORA (the routing of this adapter needs: pip install expert-condenser)"
"""PEFT's `peft_type` of an adapter with router state: the message of its refusal where we are not imported."""
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
        saved = config[adapter_name].condenser if isinstance(config, dict) else config.condenser
        read_section(saved, moe_layers(model))  # refuses what cannot be read
        if (attached := find_attachment(model)) is not None:
            found = attached.policy
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


def register_adapter_type() -> None:
    """Make PEFT know the own type (done when this module is imported)."""
    PEFT_TYPE_TO_CONFIG_MAPPING[OWN_TYPE] = CondenserLoraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[OWN_TYPE] = CondenserLoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[OWN_TYPE] = "lora_"


register_adapter_type()
