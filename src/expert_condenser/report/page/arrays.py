"""Numbers as a page holds them: the bytes of an array in base64, of the narrowest type that keeps them."""

import base64
from typing import Any

import numpy as np

_TYPES = ("uint8", "uint16", "uint32", "float64")
_STEPS = 32767


def packed_counts(values: np.ndarray) -> dict[str, Any]:
    """Whole numbers from 0 on, exactly; the type is one that `assets/data.js` reads."""
    top = int(values.max(initial=0))
    kind = next((name for name in _TYPES[:3] if top <= np.iinfo(name).max), _TYPES[3])
    return {"type": kind, "shape": list(values.shape), "data": _text(values.astype(kind))}


def packed_reals(values: np.ndarray) -> dict[str, Any]:
    """Real numbers as multiples of a step: each is within half a step, which is 1/65534 of the largest one."""
    step = float(np.nanmax(np.abs(values), initial=0.0)) / _STEPS or 1.0
    steps = np.rint(np.nan_to_num(values) / step).astype("int16")
    return {"type": "int16", "shape": list(values.shape), "step": step, "data": _text(steps)}


def _text(values: np.ndarray) -> str:
    """Little-endian, as every browser's typed arrays are."""
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode()
