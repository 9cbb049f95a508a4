"""What an optimizer keeps per parameter."""

import re
from collections.abc import Iterable

from expert_condenser.planning.sizes import Weights

_BLOCK, _LEAST = 256, 4096
"""bitsandbytes scales blocks of 256 numbers together, and keeps parameters of fewer than 4096 whole."""
_STEP = 4
"""A step count in float32, one per parameter."""
_FACTORED = r"adafactor"
_NO_STATE = r"^sgd$"
_ONE_MOMENT = r"lion|rmsprop|adagrad"


def state_bytes(optimizer: str, weights: Iterable[Weights], itemsize: int | None = None) -> int:
    """Bytes of the state of all parameters that train; `itemsize` is that of master weights, None the parameter's own.

    An optimizer that is not known here counts as AdamW, with two moments.
    """
    return sum(_of_one(optimizer, w, w.itemsize if itemsize is None else itemsize) for w in weights if w.trains)


def _of_one(optimizer: str, weights: Weights, itemsize: int) -> int:
    count, shape = weights.count, weights.shape
    if re.search(_NO_STATE, optimizer):
        return 0
    if re.search(_FACTORED, optimizer):
        return 4 * (count // shape[-1] + count // shape[-2]) if len(shape) > 1 else 4 * count
    moments = 1 if re.search(_ONE_MOMENT, optimizer) else 2
    if "4bit" in optimizer and count >= _LEAST:
        return moments * (count // 2 + 4 * count // _BLOCK)
    if "8bit" in optimizer:
        return moments * (count + 4 * count // _BLOCK if count >= _LEAST else 4 * count)
    return moments * count * itemsize + _STEP
