"""A ledger of live memory: every tensor that a step makes, until it is gone, whatever the tensors hold.

The storages of the model itself are left out. What is live is noted at every size of the gradients: from the highest
moment at each size follows the peak of any engine, which divides gradients but not activations.
"""

import weakref
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

# The one way to see what every operation makes, those of the backward pass included; torch's own trackers use it.
from torch.utils._python_dispatch import TorchDispatchMode

GRADIENTS, ACTIVATIONS, LOGITS = "gradients", "activations", "logits"


class Moment(NamedTuple):
    """Bytes that were live at one time beside the model and the optimizer."""

    gradients: int
    activations: int
    logits: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is live while it is entered; `phase` is what new tensors are counted as."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = ACTIVATIONS
        self.held: Counter[str] = Counter()
        self._live: dict[int, tuple[str, int, Any]] = {}
        self._highest: dict[int, Moment] = {}
        # With the tensors: the address of one that is gone would be another's.
        self._model = {key_of(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note the tensors that it made."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._add(value)
        return result

    def moments(self) -> list[Moment]:
        """The highest moment at each size of the gradients, in order of that size."""
        return [self._highest[size] for size in sorted(self._highest)]

    def forget(self) -> None:
        """Start again: what is live stays, what was highest is forgotten."""
        self._highest = {}

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), key_of(tensor)
        if key in self._model or key in self._live:
            return
        size = storage.nbytes()
        self._live[key] = (self.phase, size, weakref.ref(storage, partial(self._drop, key)))
        self.held[self.phase] += size
        self._note()

    def _note(self) -> None:
        now = Moment(self.held[GRADIENTS], self.held[ACTIVATIONS], self.held[LOGITS])
        before = self._highest.get(now.gradients)
        if before is None or sum(now) > sum(before):
            self._highest[now.gradients] = now

    def _drop(self, key: int, reference: Any) -> None:
        phase, size, _ = self._live.pop(key)
        self.held[phase] -= size

    def _note_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        key = key_of(parameter.grad)
        phase, size, reference = self._live[key]
        self._live[key] = (GRADIENTS, size, reference)
        self.held[phase] -= size
        self.held[GRADIENTS] += size
        self._note()


def key_of(tensor: Tensor) -> int:
    """One number per storage, the same for all views of it."""
    # The address of the storage itself; `data_ptr` is 0 for all tensors without data.
    return int(tensor.untyped_storage()._cdata)
