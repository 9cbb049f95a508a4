"""`sft`: plain supervised fine-tuning, without auxiliary loss. Routing is observed and left alone."""

from torch import nn

from expert_condenser.attach import attach
from expert_condenser.methods.base import Method
from expert_condenser.models import moe_layers
from expert_condenser.router import PolicyRouter


class Sft(Method):
    """Every weight trains; the routers count what they choose."""

    name = "sft"
    summary = "plain fine-tuning, auxiliary-loss coefficient 0"

    def prepare(self, model: nn.Module) -> None:
        """Attach the counting."""
        if not isinstance(moe_layers(model)[0].router, PolicyRouter):
            attach(model)
