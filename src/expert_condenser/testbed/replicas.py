"""A training step in several threads: each has a part of the rows and a replica of the model that shares its weights.

The threads meet once per step, not once per product, so a busy machine slows them down no more than it must. The
result does not depend on which of them is faster.
"""

import copy
from collections.abc import Sequence
from typing import Any


def replicas(model: Any, count: int) -> list[Any]:
    """`model` itself and `count - 1` copies of it: the same weights in memory, gradients and hooks of their own."""
    copies = [copy.deepcopy(model) for _ in range(count - 1)]
    for replica in copies:
        for own, shared in zip(replica.parameters(), model.parameters(), strict=True):
            own.data = shared.data
    return [model, *copies]


def add_gradients(models: Sequence[Any]) -> None:
    """Leave the sum of all gradients in the first model, and none in the others."""
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        for parameter in parameters[1:]:
            parameters[0].grad.add_(parameter.grad)
            parameter.grad = None
