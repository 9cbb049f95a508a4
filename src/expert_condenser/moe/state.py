"""The routers' state, checked where it is read: the tensors of every router, and the section of the config on them.

The readers are `from_pretrained` of our own types, `load_state_dict` of a router (a resumed `Trainer` and PEFT load
so), an adapter with router state, and the start of a training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from expert_condenser.errors import CheckpointError, RoutingError
from expert_condenser.functional.routing import RoutingConfig, check_condensers
from expert_condenser.functional.scoring import SOFTMAX, Scoring
from expert_condenser.moe.layers import MoELayer, outermost
from expert_condenser.moe.saved_tensors import saved_tensors

BIAS, IDS = STATE = ("selection_bias", "condenser_ids")
"""The registered tensors of a router with a policy."""
FORMAT_VERSION = 1
"""Of the section `condenser`; one without a version is of version 1."""


def check_router_state(
    name: str,
    bias: Shaped[Tensor, "..."],
    condensers: Shaped[Tensor, "..."],
    *,
    num_experts: int,
    top_k: int,
    policy: RoutingConfig,
    scoring: Scoring = SOFTMAX,
    num_identity: int = 0,
) -> None:
    """Raise `CheckpointError` unless the bias is E finite numbers and the condensers are R distinct expert ids.

    The last `num_identity` experts are the identity, which is no condenser.

    A bias of NaN would switch condensers off, and an id given twice would make R smaller. `name` is the router's. On
    `meta` there are no values yet.
    """
    if not bias.is_floating_point() or bias.shape != (num_experts,):
        raise _fault(name, f"the selection bias is {num_experts} floats", f"{bias.dtype} of shape {tuple(bias.shape)}")
    if condensers.dim() != 1 or condensers.dtype not in (torch.int64, torch.int32):
        shape = tuple(condensers.shape)
        raise _fault(name, "condensers are one row of integer expert ids", f"{condensers.dtype} of shape {shape}")
    _check_fit(name, len(condensers), num_experts, top_k, policy, scoring)
    if not bias.is_meta and not bias.float().isfinite().all():
        raise _fault(name, "the selection bias is finite", f"{bias.tolist()}")
    if not condensers.is_meta and not _are_distinct_ids(ids := condensers.tolist(), num_experts - num_identity):
        last = num_experts - num_identity - 1
        raise _fault(name, f"condensers are distinct expert ids in 0..{last}", f"{ids}")


def check_layers(layers: Sequence[MoELayer]) -> None:
    """`check_router_state` of every router of a model that has a policy."""
    for layer in layers:
        layer.router.check_state(layer.name)


def make_section(policy: RoutingConfig, condensers_per_layer: Sequence[int]) -> dict[str, Any]:
    """What a config says about the routers: the policy, and how many condensers each layer has."""
    return {
        "format_version": FORMAT_VERSION,
        "routing": asdict(policy),
        "condensers_per_layer": list(condensers_per_layer),
    }


def read_section(section: Any, layers: Sequence[MoELayer]) -> tuple[RoutingConfig, list[int]]:
    """The policy, and the number of condensers of every layer.

    Raises `CheckpointError` where the section is missing, of a newer version, or does not fit the layers: before
    anything is allocated by its numbers.
    """
    if not isinstance(section, Mapping) or not {"routing", "condensers_per_layer"} <= section.keys():
        raise CheckpointError(
            "a config of our own type has a section `condenser` with routing and condensers_per_layer; got "
            f"{section!r}. Save the model again, or start from the base model."
        )
    version = section.get("format_version", 1)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"the section `condenser` has a format_version up to {FORMAT_VERSION}; got {version!r}. A newer release "
            "wrote it: upgrade expert-condenser."
        )
    try:
        policy = RoutingConfig(**section["routing"])
    except (TypeError, RoutingError) as error:
        raise CheckpointError(f"the routing of the section `condenser` cannot be read: {error}") from error
    counts = section["condensers_per_layer"]
    whole = isinstance(counts, list | tuple) and all(type(count) is int and count >= 0 for count in counts)
    if not whole or len(counts) != len(layers):
        raise CheckpointError(f"condensers_per_layer has a number for each of {len(layers)} MoE layers; got {counts!r}")
    wanted = policy.num_condensers
    promised = [wanted] * len(counts) if isinstance(wanted, int) else list(wanted or counts)
    if any(counts) and list(counts) != promised:
        raise CheckpointError(f"condensers_per_layer is what num_condensers says, {wanted}; got {counts!r}")
    for layer, count in zip(layers, counts, strict=True):
        _check_fit(layer.name, count, layer.num_experts, layer.top_k, policy, layer.scoring)
    return policy, list(counts)


def check_saved_types(path: str | Path) -> None:
    """Raise `CheckpointError` where a bias in a directory's files is no float, or a condenser no integer.

    Loading makes them what they should be, other numbers among them. Of a model on the hub no files are looked at.
    """
    for tensor in saved_tensors(Path(path)):
        _check_type(tensor.name, tensor.dtype)


def _check_type(key: str, dtype: str) -> None:
    name, _, tensor = key.rpartition(".")
    if tensor == IDS and dtype not in ("I64", "I32", "torch.int64", "torch.int32"):
        raise _fault(name, "condensers are integer expert ids", dtype)
    if (
        tensor == BIAS
        and dtype not in ("F64", "F32", "F16", "BF16")
        and not dtype.startswith(("torch.float", "torch.bf"))
    ):
        raise _fault(name, "a selection bias is of floats", dtype)


def check_complete(keys: Iterable[str], layers: Sequence[MoELayer]) -> None:
    """Raise `CheckpointError` unless the keys of an adapter's tensors have the state of every router."""
    names, found = [layer.name.removeprefix("base_model.model.") for layer in layers], tuple(keys)
    wanted = [f"{name}.{tensor}" for name in names for tensor in STATE]
    missing = [name for name in wanted if not any(f".{key}".endswith(f".{name}") for key in found)]
    if missing:
        raise CheckpointError(f"an adapter has the state of every router; missing: {', '.join(missing[:4])}")


def check_same_routers(entries: Sequence[Mapping[str, Any]], layers: Sequence[MoELayer]) -> None:
    """Raise `RoutingError` where the entries of a condensers.json name routers that this model does not have.

    Names are compared without what an adapter puts around them; an entry without one (written by hand) is taken.
    """
    for entry in entries:
        index, router = entry["layer"], entry.get("router")
        own = layers[index].name if isinstance(index, int) and 0 <= index < len(layers) else None
        if router is not None and own is not None and not _is_same(str(router), own):
            raise RoutingError(f"condensers are chosen for a router; layer {index} here is {own}, there {router}")


def _is_same(first: str, second: str) -> bool:
    short, long = sorted((outermost(first), outermost(second)), key=len)
    return f".{long}".endswith(f".{short}")


def _are_distinct_ids(ids: list[int], num_experts: int) -> bool:
    return len(set(ids)) == len(ids) and all(0 <= i < num_experts for i in ids)


def _check_fit(name: str, count: int, num_experts: int, top_k: int, policy: RoutingConfig, scoring: Scoring) -> None:
    try:
        check_condensers(count, num_experts, top_k, policy, scoring)
    except RoutingError as error:
        raise CheckpointError(f"{name}: {error}") from error


def _fault(name: str, rule: str, got: str) -> CheckpointError:
    return CheckpointError(f"{name}: {rule}; got {got[:200]}. The file was damaged or edited: save the model again.")
