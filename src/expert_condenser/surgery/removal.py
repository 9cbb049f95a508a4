"""Which experts go: those of the lowest scores, or those that somebody named; condensers never.

Every layer loses the same number, since a config has one number of experts for all layers; with groups of experts
(`n_group`) so does every group.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.errors import SurgeryError
from expert_condenser.moe.layers import MoELayer

Removed = Mapping[int, Sequence[int]]
"""`{layer index: expert ids}`, of every MoE layer."""


def lowest_scored(
    scores: Float64[Tensor, "L E"], count: int, layers: Sequence[MoELayer], condensers: Removed
) -> dict[int, list[int]]:
    """The `count` experts of the lowest scores of every layer, the same number of every group; ties: the lower index.

    Condensers and experts that are the identity stay, whatever their scores. Raises `SurgeryError` where `count` is
    none that a layer can lose, or no multiple of the number of groups.
    """
    if tuple(scores.shape) != (len(layers), layers[0].num_experts):
        raise SurgeryError(
            f"experts are ranked by a score each, {len(layers)} layers of {layers[0].num_experts} here; got scores of "
            f"{' x '.join(map(str, scores.shape))}"
        )
    check_count(layers, count, condensers)
    return {at: _lowest(row, count, layers[at], condensers.get(at, ())) for at, row in enumerate(scores)}


def _lowest(row: Tensor, count: int, layer: MoELayer, condensers: Sequence[int]) -> list[int]:
    stay = [*condensers, *range(layer.num_weighted, layer.num_experts)]
    ranks = row.index_fill(0, torch.tensor(stay, dtype=torch.int64), torch.inf)
    groups = layer.scoring.num_groups
    per_group = ranks.view(groups, -1).argsort(dim=-1, stable=True)[:, : count // groups]
    first = torch.arange(groups).unsqueeze(-1) * (layer.num_experts // groups)
    return sorted((per_group + first).flatten().tolist())


def check_count(layers: Sequence[MoELayer], count: int, condensers: Removed) -> None:
    """Raise `SurgeryError` unless every layer can lose `count` experts."""
    for at, layer in enumerate(layers):
        most, groups = most_removable(layer, condensers.get(at, ())), layer.scoring.num_groups
        if not 1 <= count <= most or count % groups:
            of_groups = f", a multiple of its {groups} groups," if groups > 1 else ""
            some = f"1 to {most} of them{of_groups}" if most else "none of them"
            raise SurgeryError(
                f"layer {at} ({layer.name}) has {layer.num_experts} experts, {layer.top_k} of them for every token and "
                f"{len(condensers.get(at, ()))} condensers: {some} can be removed; got {count}"
            )


def most_removable(layer: MoELayer, condensers: Sequence[int]) -> int:
    """How many experts a layer can lose: as many are left as a token chooses, from the groups that it may choose from.

    A group that is ranked by its two best keeps two.
    """
    scoring, size = layer.scoring, layer.num_experts // layer.scoring.num_groups
    per_group = max(
        -(-layer.top_k // scoring.groups_kept),
        2 if scoring.num_groups > 1 and scoring.group_rank == "best_two" else 1,
        *(sum(i // size == group for i in condensers) for group in range(scoring.num_groups)),
    )
    return min(scoring.num_groups * (size - per_group), layer.num_weighted - 1)


def check_removed(layers: Sequence[MoELayer], removed: Removed, condensers: Removed) -> None:
    """Raise `SurgeryError` unless these experts can be cut.

    They are there, each is named once, none is a condenser or the identity, and every layer and every group loses as
    many.
    """
    for at in removed:
        if not 0 <= at < len(layers):
            raise SurgeryError(f"the model has MoE layers 0 to {len(layers) - 1}; got layer {at}; correct it")
    counts = [len(removed.get(at, ())) for at in range(len(layers))]
    if len(set(counts)) != 1:
        raise SurgeryError(
            f"every MoE layer loses the same number of experts, since a config has one number for all; got {counts}"
        )
    for at, layer in enumerate(layers):
        _check_ids(at, layer, removed[at], condensers.get(at, ()))
    check_count(layers, counts[0], condensers)


def _check_ids(at: int, layer: MoELayer, ids: Sequence[int], condensers: Sequence[int]) -> None:
    where = f"layer {at} ({layer.name})"
    if len(set(ids)) != len(ids) or any(not 0 <= i < layer.num_weighted for i in ids):
        raise SurgeryError(
            f"{where} has the experts 0 to {layer.num_weighted - 1}; got {list(ids)[:8]}; name each once"
        )
    if among := sorted(set(ids) & set(condensers)):
        raise SurgeryError(f"{where}: condensers are never removed, and {among} are; leave them out")
    size = layer.num_experts // layer.scoring.num_groups
    lost = [sum(i // size == group for i in ids) for group in range(layer.scoring.num_groups)]
    if len(set(lost)) > 1:
        raise SurgeryError(f"{where}: every group of {size} experts loses the same number; got {lost}")
