"""What `loss_free`, `bias_only` and `condenser` share: a selection bias that moves once per optimizer step."""

import torch
from torch import Tensor

from expert_condenser.functional.bias import BiasRule, update_bias
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.methods.base import Method, MethodConfig

ROUTING_OPTIONS = frozenset(
    {"routing_preset", "budget", "bias_space", "bias_in_weights", "usage", "bias_center", "bias_clip"}
)


class SelectionBias(Method):
    """Move every layer's bias by one step of `rule` after each optimizer step."""

    rule: BiasRule
    options = ROUTING_OPTIONS | {"router", "bias_step"}

    def __init__(self, config: MethodConfig | None = None, phase: str | None = None) -> None:
        super().__init__(config, phase)
        self.config.routing()  # raises where the switches have no meaning

    @property
    def bias_step(self) -> float:
        """gamma of this phase."""
        return self.config.bias_step

    @property
    def routing(self) -> RoutingConfig:
        """The switches of `MethodConfig`."""
        return self.config.routing()

    @torch.no_grad()
    def update(self, usage: Tensor) -> None:
        """`usage` (L, E): int64 counts or float64 mass, on any device."""
        biases = torch.stack([layer.router.selection_bias for layer in self.layers])
        updated = update_bias(
            biases,
            usage.to(biases.device),
            self.bias_step,
            self.rule,
            competes=self._competes(usage).to(biases.device),
            center=self.routing.bias_center,  # type: ignore[arg-type]
            clip=self.config.bias_clip,
        )
        for layer, bias in zip(self.layers, updated, strict=True):
            layer.router.selection_bias.copy_(bias)

    def metrics(self) -> dict[str, float]:
        """`bias_range`: the mean over layers of max - min of the bias, in logits."""
        biases = torch.stack([layer.router.selection_bias for layer in self.layers])
        return {"bias_range": (biases.amax(-1) - biases.amin(-1)).mean().item()}

    def _competes(self, usage: Tensor) -> Tensor:
        competes = torch.ones(usage.shape, dtype=torch.bool)
        for row, layer in zip(competes, self.layers, strict=True):
            row[layer.router.condenser_ids.cpu()] = False
        return competes
