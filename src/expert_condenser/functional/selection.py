"""Who becomes a condenser: `select_condensers` chooses experts by a rule.

How many a layer gets is another question, see `allocation`. The same input gives the same result on every machine.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64, Num
from torch import Tensor

from expert_condenser.errors import RoutingError

SelectionRule = Literal[
    "lowest_bias",
    "highest_bias",
    "least_used",
    "most_used",
    "smallest_norm",
    "largest_norm",
    "counterfactual",
    "random",
    "explicit",
]

# Rule: (the table it ranks by, whether the largest value comes first).
_RANKED_BY = {
    "lowest_bias": ("bias", False),
    "highest_bias": ("bias", True),
    "least_used": ("usage", False),
    "most_used": ("usage", True),
    "smallest_norm": ("norms", False),
    "largest_norm": ("norms", True),
    "counterfactual": ("utility", True),
}
_ORIGIN = {
    "bias": ("a learnt bias", "run the sparsify phase first"),
    "usage": ("counted usage", "count usage on calibration data first"),
    "norms": ("measured norms", "measure the norms of trained experts"),
    "utility": ("measured utilities", "measure what each expert would do to the loss"),
}


def select_condensers(  # noqa: PLR0913 - one argument per thing that a rule ranks by
    num_condensers: int | Sequence[int],
    *,
    rule: SelectionRule = "lowest_bias",
    bias: Float[Tensor, "L E"] | None = None,
    usage: Num[Tensor, "L E"] | None = None,
    norms: Float[Tensor, "L E"] | None = None,
    utility: Float[Tensor, "L E"] | None = None,
    seed: int | None = None,
    explicit: Mapping[int, Sequence[int]] | None = None,
    num_experts: int | Sequence[int] | None = None,
    top_k: int | None = None,
) -> dict[int, list[int]]:
    """Choose `R` condensers in each of `L` layers: the first `R` experts in the order of the rule.

    Order: by the rule's value, then by lower usage where `usage` is given, then by lower index. `random` orders by
    draws that depend on `seed` and the layer only. `lowest_bias` is the paper's rule: the sparsification bias of a
    long-tailed expert has been pushed down.

    Args:
        num_condensers: `R`, one for all layers or one per layer. With rule `explicit`, zeros everywhere take the
            numbers of `explicit`, anything else has to match them in every layer.
        rule: how experts are ordered.
        bias: learnt selection bias `beta`, for `lowest_bias` and `highest_bias`.
        usage: token counts or masses, for `least_used` and `most_used`, and to break ties of the other rules.
        norms: norms of the experts' weights, for `smallest_norm` and `largest_norm`.
        utility: by how much an expert's presence would lower the loss, for `counterfactual`, which chooses among the
            `E // 2` experts of the lowest `usage`.
        seed: for `random`.
        explicit: layer index to expert ids, for `explicit`; a layer left out has none.
        num_experts: `E`, one for all layers or one per layer; needed when no tensor tells it. Where layers differ,
            the columns of a tensor beyond a layer's `E` are padding and ignored.
        top_k: `K`; given, it bounds `R <= K-1`, since condensers share the K slots of a token.

    Returns:
        Layer index to expert ids in the order of choice; an empty list where `R = 0`.

    Raises:
        RoutingError: an input that the rule needs is missing, not finite, or the same for all experts of a layer
            with `R > 0`; sizes that disagree; `R` out of bounds; explicit ids out of range or repeated.
    """
    _check_rule(rule, seed, explicit)
    tables = {
        n: t for n, t in (("bias", bias), ("usage", usage), ("norms", norms), ("utility", utility)) if t is not None
    }
    experts = _experts_per_layer(num_condensers, num_experts, tables)
    counts = [num_condensers] * len(experts) if isinstance(num_condensers, int) else list(num_condensers)
    if explicit is not None:
        return _explicit_condensers(explicit, counts, experts, top_k)
    _check_budget(counts, experts, top_k)
    if rule == "random":
        keys = [_random_keys(seed, layer, size) for layer, size in enumerate(experts)]
    else:
        keys = _ranking_keys(rule, tables, experts, counts)
    if rule == "counterfactual":
        keys = _among_least_used(keys, tables, experts, counts)
    ties = _rows("usage", tables["usage"], experts) if "usage" in tables else [torch.zeros_like(k) for k in keys]
    return {layer: _first(r, keys[layer], ties[layer]) for layer, r in enumerate(counts)}


def _check_rule(rule: str, seed: int | None, explicit: Mapping[int, Sequence[int]] | None) -> None:
    if rule not in get_args(SelectionRule):
        raise RoutingError(f'a rule is one of {", ".join(get_args(SelectionRule))}; got "{rule}"; choose one of these')
    if rule == "explicit" and explicit is None:
        raise RoutingError('rule "explicit" needs explicit; got none; pass the expert ids of each layer')
    if rule != "explicit" and explicit is not None:
        raise RoutingError(f'only rule "explicit" reads explicit; got rule "{rule}"; drop one of the two')
    if rule == "random" and seed is None:
        raise RoutingError('rule "random" needs seed; got none; pass an integer')


def _experts_per_layer(
    num_condensers: int | Sequence[int], num_experts: int | Sequence[int] | None, tables: Mapping[str, Tensor]
) -> list[int]:
    """`E` of each layer; `RoutingError` when the inputs leave `L` or `E` open, or disagree on them."""
    layers = {name: table.shape[0] for name, table in tables.items()}
    for name, value in (("num_condensers", num_condensers), ("num_experts", num_experts)):
        if isinstance(value, Sequence):
            layers[name] = len(value)
    widths = {name: table.shape[1] for name, table in tables.items()}
    if num_experts is not None:
        widths["num_experts"] = max(num_experts, default=0) if isinstance(num_experts, Sequence) else num_experts
    for what, sizes in (("layers", layers), ("experts", widths)):
        if len(set(sizes.values())) != 1 or min(sizes.values()) < 1:
            raise RoutingError(
                f"the inputs must tell one number of {what}, 1 or more; got {sizes or 'none'}; pass num_experts with "
                "one value per layer, and tensors of shape (L, E)"
            )
    if isinstance(num_experts, Sequence):
        return list(num_experts)
    return [next(iter(widths.values()))] * next(iter(layers.values()))


def _check_budget(counts: Sequence[int], experts: Sequence[int], top_k: int | None) -> None:
    """`0 <= R < E`, and `R <= K-1` when condensers share the K slots of a token."""
    if wrong := [layer for layer, r in enumerate(counts) if not 0 <= r < experts[layer]]:
        bounds = ", ".join(str(experts[layer]) for layer in wrong)
        raise RoutingError(f"R must be >= 0 and below E; got {_named(wrong, counts)} with E = {bounds}; change R")
    if top_k is not None and (wrong := [layer for layer, r in enumerate(counts) if r > top_k - 1]):
        raise RoutingError(
            f"condensers share the K slots, so R <= K-1 = {top_k - 1}; got {_named(wrong, counts)}; lower R"
        )


def _explicit_condensers(
    explicit: Mapping[int, Sequence[int]], counts: Sequence[int], experts: Sequence[int], top_k: int | None
) -> dict[int, list[int]]:
    """The given ids, checked: known layers, the numbers asked for, ids distinct and in range."""
    if unknown := sorted(set(explicit) - set(range(len(experts)))):
        raise RoutingError(f"layers are 0 to {len(experts) - 1}; got explicit ids for {_named(unknown)}; correct them")
    chosen = {layer: list(explicit.get(layer, ())) for layer in range(len(experts))}
    sizes = [len(ids) for ids in chosen.values()]
    if any(counts) and (wrong := [layer for layer, size in enumerate(sizes) if size != counts[layer]]):
        raise RoutingError(
            f"explicit must match num_condensers ({_named(wrong, counts)}); got {_named(wrong, sizes)}; correct either"
        )
    _check_budget(sizes, experts, top_k)
    for layer, ids in chosen.items():
        if len(set(ids)) != len(ids) or not all(0 <= i < experts[layer] for i in ids):
            raise RoutingError(
                f"expert ids are distinct and in 0..{experts[layer] - 1}; got {ids} in layer {layer}; correct them"
            )
    return chosen


def _random_keys(seed: int | None, layer: int, num_experts: int) -> Float64[Tensor, " E"]:
    """One draw per expert. Python promises the sequence of `random()` for a seed; torch does not promise `randperm`."""
    draw = random.Random(f"{seed}/{layer}")
    return torch.tensor([draw.random() for _ in range(num_experts)], dtype=torch.float64)


def _ranking_keys(
    rule: str, tables: Mapping[str, Tensor], experts: Sequence[int], counts: Sequence[int]
) -> list[Float64[Tensor, " _"]]:
    """Per layer, values whose ascending order is the rule's; `RoutingError` where they tell no experts apart."""
    name, largest_first = _RANKED_BY[rule]
    need, advice = _ORIGIN[name]
    if name not in tables:
        raise RoutingError(f'rule "{rule}" needs {name}; got none; {advice} or choose another rule')
    rows = _rows(name, tables[name], experts)
    if equal := [layer for layer, row in enumerate(rows) if counts[layer] > 0 and (row == row[0]).all()]:
        raise RoutingError(
            f"condensers need {need}; got all-equal {name} in {_named(equal)}; {advice} or choose another rule"
        )
    return [-row if largest_first else row for row in rows]


def _among_least_used(
    keys: Sequence[Float64[Tensor, " _"]], tables: Mapping[str, Tensor], experts: Sequence[int], counts: Sequence[int]
) -> list[Float64[Tensor, " _"]]:
    """The same keys, with the busier half of every layer put behind all others."""
    if "usage" not in tables:
        raise RoutingError('rule "counterfactual" needs usage; got none; count it on the rows of the utilities')
    if wrong := [layer for layer, r in enumerate(counts) if r > experts[layer] // 2]:
        raise RoutingError(
            f'rule "counterfactual" chooses among the less used half; got {_named(wrong, counts)}; lower R'
        )
    kept = []
    for key, used in zip(keys, _rows("usage", tables["usage"], experts), strict=True):
        busier = used.argsort(stable=True)[len(used) // 2 :]
        kept.append(key.index_fill(0, busier, torch.inf))
    return kept


def _rows(name: str, table: Num[Tensor, "L E"], experts: Sequence[int]) -> list[Float64[Tensor, " _"]]:
    """The table's rows in float64, without padding; `RoutingError` for values that are not finite."""
    rows = [row[:size] for row, size in zip(table.detach().cpu().double(), experts, strict=True)]
    if wrong := [layer for layer, row in enumerate(rows) if not row.isfinite().all()]:
        raise RoutingError(f"{name} must be finite; got nan or inf in {_named(wrong)}; check the run it comes from")
    return rows


def _first(r: int, keys: Float64[Tensor, " E"], ties: Float64[Tensor, " E"]) -> list[int]:
    """The `r` first experts by key, then tie-break, then index: stable sorts from the last criterion to the first."""
    order = ties.argsort(stable=True)
    return order[keys[order].argsort(stable=True)][:r].tolist()


def _named(layers: Sequence[int], counts: Sequence[int] | None = None) -> str:
    """`layers 0, 3`, or `layer 0: R = 5, layer 3: R = 4` with the counts."""
    if counts is not None:
        return ", ".join(f"layer {layer}: R = {counts[layer]}" for layer in layers)
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
