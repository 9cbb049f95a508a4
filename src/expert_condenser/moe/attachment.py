"""What is of an attached model as a whole: its policy, what is watched, and the hooks on its decoder."""

import copy
from collections.abc import Sequence
from typing import Any
from weakref import ReferenceType, ref

from torch import nn

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.counting import Watch
from expert_condenser.moe.dense_mixture import forget_mixture
from expert_condenser.moe.layers import decoder_of, moe_layers
from expert_condenser.moe.replay import Replay, unwrap_checkpointing, wrap_checkpointing

_PLACE = "expert_condenser_attachment"
"""The attribute of the decoder that holds it: it goes along when the model is copied, wrapped, or moved."""


class Attachment:
    """One per attached model; its routers refer to it."""

    def __init__(self, decoder: Any, routers: Sequence[Any], policy: RoutingConfig | None) -> None:
        self.decoder: ReferenceType[Any] | None = ref(decoder)
        self.routers = tuple(routers)
        self.policy = policy
        """None: the family's own routing, only counted."""
        self.watch = Watch()
        self.replay = Replay()
        self._checkpointed = [module for module in decoder.modules() if hasattr(module, "gradient_checkpointing")]
        self._handles = [
            decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            decoder.register_forward_hook(self._leave, always_call=True),
        ]
        setattr(decoder, _PLACE, self)

    def __deepcopy__(self, copies: dict[int, Any]) -> "Attachment":
        """That of a copied model; a router that is copied alone gets one without a model: it routes, uncounted."""
        twin = copies[id(self)] = object.__new__(type(self))
        decoder = None if self.decoder is None else copies.get(id(self.decoder()))
        twin.decoder = None if decoder is None else ref(decoder)
        kept = {name: value for name, value in vars(self).items() if name != "decoder"}
        if decoder is None:
            kept.update(routers=(), watch=Watch(), replay=Replay(), _checkpointed=[], _handles=[])
        vars(twin).update(copy.deepcopy(kept, copies))
        return twin

    def _enter(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget()  # what a forward left that was interrupted from the keyboard, where `_leave` is not called
        self.watch.open(decoder, args, kwargs)
        wrap_checkpointing(self._checkpointed, self.replay)

    def _leave(self, decoder: Any, args: tuple[Any, ...], output: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        """Let go of what is of one forward, such as the graph of a choice whose experts did not run."""
        self.watch.close()
        for router in self.routers:
            forget_mixture(router)

    def remove(self, decoder: Any) -> None:
        """Take the hooks away and put the checkpointing functions back."""
        for handle in self._handles:
            handle.remove()
        unwrap_checkpointing(self._checkpointed)
        delattr(decoder, _PLACE)

    def reset(self, *, detailed: bool) -> None:
        """Start to count from zero; `detailed` also gate weights and what the bias changed."""
        self.watch.detailed = detailed
        for router in self.routers:
            router.counter.reset()


def attachment_of(model: nn.Module) -> Attachment:
    """The attachment of a model, or of the model inside an adapter or another wrapper.

    Raises `RoutingError` where it has none.
    """
    found = find_attachment(model)
    if found is None:
        raise RoutingError(
            f"{type(model).__name__} is not attached: its routers are transformers' own. Call attach(model) first."
        )
    return found


def find_attachment(model: nn.Module) -> Attachment | None:
    """As `attachment_of`; None where the model has none."""
    found: Attachment | None = getattr(decoder_of(model, moe_layers(model)), _PLACE, None)
    return found
