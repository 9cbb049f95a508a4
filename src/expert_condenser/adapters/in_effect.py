"""The routing of an adapter holds while the adapter is in effect; disabled, the model is its base, routers included."""

from typing import Any

from peft.tuners.lora.layer import LoraLayer
from torch import nn

from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.layers import decoder_of, moe_layers
from expert_condenser.moe.state import check_layers


class RoutingInEffect:
    """Hooks on the decoder of an attached model that take its policy away in forwards without the adapter `name`.

    PEFT and transformers have several ways to switch an adapter off, and all of them set it in its layers. The first
    forward raises `CheckpointError` on router state that is none: transformers fills it in where nobody can look.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self._unchecked = moe_layers(model)
        decoder = decoder_of(model, self._unchecked)
        self.name, self.attachment = name, attachment_of(model)
        self._suspended: RoutingConfig | None = None
        """The policy, during a forward without the adapter."""
        self._handles = [
            decoder.register_forward_pre_hook(self._enter, prepend=True),
            decoder.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, decoder: nn.Module, args: Any) -> None:
        if self._unchecked:
            check_layers(self._unchecked)
            self._unchecked = []
        layer = next((module for module in decoder.modules() if isinstance(module, LoraLayer)), None)
        if layer is not None and not self._is_active(layer) and self.attachment.policy is not None:
            self._suspended, self.attachment.policy = self.attachment.policy, None

    def _leave(self, decoder: nn.Module, args: Any, output: Any) -> None:
        if self._suspended is not None:
            self.attachment.policy, self._suspended = self._suspended, None

    def _is_active(self, layer: Any) -> bool:
        """Whether an adapted layer computes with the adapter; one that is disabled takes a merged adapter out again."""
        if layer.disable_adapters:
            return False
        return self.name in layer.merged_adapters or (self.name in layer.active_adapters and self.name in layer.lora_A)

    def remove(self) -> None:
        """Take the hooks away: the policy holds from now on."""
        for handle in self._handles:
            handle.remove()
