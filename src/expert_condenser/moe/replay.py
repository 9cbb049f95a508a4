"""Gradient checkpointing recomputes a layer: with the experts of the first pass, whatever the bias is by then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

# Where a layer's forward finds its checkpointing function, which nothing public replaces layer by layer. transformers
# sets it on every layer in `gradient_checkpointing_enable`, which may come after the attachment.
_FUNCTION = "_gradient_checkpointing_func"


class Replay:
    """The routers' choices in the checkpointed call that is running; outside of one there are none."""

    def __init__(self) -> None:
        self._choices: dict[int, Tensor] | None = None

    def recall(self, router: Any) -> Tensor | None:
        """The router's choice `(T, S)` in the first pass of this call; None in the first pass itself."""
        return None if self._choices is None else self._choices.get(id(router))

    def remember(self, router: Any, indices: Tensor) -> None:
        """Keep a choice for the recomputation, where there will be one."""
        if self._choices is not None:
            self._choices[id(router)] = indices

    @contextmanager
    def within(self, choices: dict[int, Tensor]) -> Iterator[None]:
        """Let the routers read their choices from `choices`, and write there what is missing."""
        outer, self._choices = self._choices, choices
        try:
            yield
        finally:
            self._choices = outer


class ReplayingCheckpoint:
    """A layer's checkpointing function, with one memory per call: the recomputation gets the first pass's experts.

    Without it, rounding that differs between the two passes, or a bias changed between them, would make
    the backward pass that of another function.
    """

    def __init__(self, checkpoint: Callable[..., Any], replay: Replay) -> None:
        self.checkpoint = checkpoint
        self.replay = replay

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function` under the wrapped checkpointing function."""
        choices: dict[int, Tensor] = {}

        def run(*inner: Any) -> Any:
            with self.replay.within(choices):
                return function(*inner)

        return self.checkpoint(run, *args)


def wrap_checkpointing(layers: list[Any], replay: Replay) -> None:
    """Put a `ReplayingCheckpoint` around the checkpointing function of every layer that has one by now."""
    for layer in layers:
        function = getattr(layer, _FUNCTION, None)
        if function is not None and not isinstance(function, ReplayingCheckpoint):
            setattr(layer, _FUNCTION, ReplayingCheckpoint(function, replay))


def unwrap_checkpointing(layers: list[Any]) -> None:
    """Put the layers' own functions back."""
    for layer in layers:
        function = getattr(layer, _FUNCTION, None)
        if isinstance(function, ReplayingCheckpoint):
            setattr(layer, _FUNCTION, function.checkpoint)
