"""Several sources as one data set, in shares that are exact: the new rows with a few of the old, say."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from expert_condenser.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where rows come from; `weight` is their share of the mixture, None where all rows of all sources are taken."""

    path: str
    weight: float | None = None
    split: str | None = None
    """None: the split of the whole run."""
    data_format: str | None = None
    answer_style: str | None = None

    def __post_init__(self) -> None:
        """Raise `DataError` where a value has no meaning."""
        if not self.path:
            raise DataError(f"a source of a mixture needs a 'path', but it has {self.path!r}")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise DataError(f"the weight of {self.path} must be above 0, but it is {self.weight}; or leave it out")


def sources_of(value: Any) -> tuple[Source, ...]:
    """The sources that a recipe names: a path, or a list of paths and mappings (as JSON on a command line)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"a list of sources must be JSON, but it is {value[:80]!r} ({error})") from error
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise DataError(f"data must be a path, or a list of sources, but it is {str(value)[:80]!r}")
    sources = tuple(map(_source, given))
    weighted = [source for source in sources if source.weight is not None]
    if weighted and len(weighted) < len(sources):
        without = next(source.path for source in sources if source.weight is None)
        raise DataError(f"either every source of a mixture has a weight or none has, but {without} has none; add it")
    return sources


_KINDS: Mapping[Any, str] = {int | float: "a number", str: "a text"}


def _source(value: Any) -> Source:
    if isinstance(value, str):
        return Source(value)
    known = [f.name for f in fields(Source)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise DataError(f"a source of a mixture has {', '.join(known)}, but it is {str(value)[:80]!r}")
    found: dict[str, Any] = {"path": "", **value}
    for name in known:
        kind = int | float if name == "weight" else str
        if isinstance(found.get(name), bool) or not isinstance(found.get(name), kind | None):
            raise DataError(f"the {name} of a source must be {_KINDS[kind]}, but it is {found[name]!r}; correct it")
    weight = found.get("weight")
    return Source(**{**found, "weight": None if weight is None else float(weight)})


def counts_of(sizes: Sequence[int], weights: Sequence[float | None], limit: int | None = None) -> list[int]:
    """How many rows each source gives: as many in all as their shares allow without a row twice, at most `limit`.

    The largest remainders are rounded up, so that the counts sum to the whole. Without weights, all rows.
    """
    if any(weight is None for weight in weights):
        return _first(sizes, limit)
    exact = [Fraction(weight or 0) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    total = min(int(size / share) for size, share in zip(sizes, shares, strict=True))
    total = total if limit is None else min(total, limit)
    counts = [int(total * share) for share in shares]
    by_remainder = sorted(range(len(counts)), key=lambda at: (counts[at] - total * shares[at], at))
    for at in by_remainder[: total - sum(counts)]:
        counts[at] += 1
    return counts


def _first(sizes: Sequence[int], limit: int | None) -> list[int]:
    counts, left = [], sum(sizes) if limit is None else limit
    for size in sizes:
        counts.append(min(size, left))
        left -= counts[-1]
    return counts


def order_of(size: int, seed: int, position: int) -> list[int]:
    """The order in which the rows of the source at this position are drawn."""
    order = list(range(size))
    random.Random(f"mixture/{seed}/{position}").shuffle(order)
    return order
