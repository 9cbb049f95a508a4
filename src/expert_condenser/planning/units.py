"""Sizes of memory as a person writes and reads them."""

import re

from expert_condenser.errors import PlanError

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str) -> int:
    """`80GB` is 80 * 10^9, `80GiB` 80 * 2^30; raises `PlanError` on anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(b|[kmgt]i?b?)\s*", text.lower())
    if found is None or float(found[1]) <= 0:
        raise PlanError(f"memory is a number with a unit, such as 80GB or 24GiB; got {text!r}")
    return round(float(found[1]) * _FACTORS[found[2].rstrip("b")])


def shown(count: int | float) -> str:
    """`12.3 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if abs(count) >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
