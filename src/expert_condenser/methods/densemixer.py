"""`densemixer`: the router learns from every expert, NeurIPS 2025 (see `expert_condenser.moe.dense_mixture`)."""

from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from expert_condenser.errors import TrainingError
from expert_condenser.methods.base import Method, RouterConfig
from expert_condenser.moe.dense_mixture import Mixer, check_mixture, install_mixture
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import router_trains


@dataclass(frozen=True)
class DenseMixerConfig(RouterConfig):
    """The options of `densemixer`."""

    mixer: str = field(
        default="lean", metadata={"help": "DenseMixer's implementation: 'lean' (memory O(T D)) or 'plain' (O(T E D))."}
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` on another word."""
        super().__post_init__()
        if self.mixer not in get_args(Mixer):
            raise TrainingError(f"mixer is one of {', '.join(get_args(Mixer))}; got {self.mixer!r}")


class DenseMixer(Method):
    """Forward as in plain fine-tuning, bit for bit; the router's gradient is that of the dense mixture."""

    Config = DenseMixerConfig
    name = "densemixer"
    summary = "straight-through router gradient from all experts; experts learn from their own tokens"
    paper = "DenseMixer, NeurIPS 2025"
    all_experts = True

    def prepare(self, model: nn.Module) -> None:
        """Also install the mixture, once; raises `TrainingError` where no router trains.

        Raises `UnsupportedModelError` for a family whose experts are not weighed as the mixture needs it.
        """
        check_mixture(moe_layers(model))
        super().prepare(model)
        if not router_trains(model, self.layers):
            raise TrainingError(
                "densemixer is about the gradient of the routers, and none of them trains: leave router out, or with "
                "an adapter set router='lora'"
            )
        for layer in self.layers:
            if layer.router.mixer is None:
                install_mixture(layer, self.config.mixer)
