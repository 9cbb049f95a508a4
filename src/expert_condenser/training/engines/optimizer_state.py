"""The optimizer's state in a checkpoint: whole tensors, by the order of the parameters, whichever engine wrote it.

So a training that began on split weights goes on in one process, and the other way round. A list of names beside it
says whose state is whose, for an engine may order parameters otherwise. DeepSpeed has files of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from expert_condenser.errors import TrainingError
from expert_condenser.files import read_json, write_json

STATE, NAMES, SCHEDULE = "optimizer.pt", "optimizer_names.json", "scheduler.pt"


def names_of(model: nn.Module, optimizer: Any) -> list[str]:
    """The names of the parameters, in the optimizer's order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def save_state(model: nn.Module, optimizer: Any, folder: Path, *, writes: bool) -> None:
    """Write the state of an optimizer of split weights; every process has to, and the one that `writes` does."""
    held = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {index: {} for index in held["state"]}
    for index, of_parameter in held["state"].items():
        for name, value in of_parameter.items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if writes:  # the others have only lent their parts
                state[index][name] = whole.cpu() if isinstance(whole, Tensor) else whole
    if writes:
        torch.save({**held, "state": state}, folder / STATE)


def save_names(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Write whose state is whose."""
    write_json(folder / NAMES, names_of(model, optimizer), indent=None)


@torch.no_grad()
def load_state(model: nn.Module, optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Take over the states of optimizer and scheduler in a checkpoint, each tensor split as its parameter is.

    Raises `TrainingError` where it is of other parameters.
    """
    saved = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    names = names_of(model, optimizer)
    there = read_json(folder / NAMES) if (folder / NAMES).exists() else names
    if sorted(there) != sorted(names):
        raise TrainingError(
            f"an optimizer goes on with the parameters that it trained; {folder / STATE} is of {len(there)} others "
            f"than these {len(names)}: {sorted(set(there) ^ set(names))[:3]}"
        )
    place = {name: index for index, name in enumerate(there)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {key: _split_like(parameter, value) for key, value in saved["state"][place[name]].items()}
        for index, (name, parameter) in enumerate(zip(names, parameters, strict=True))
        if place[name] in saved["state"]
    }
    groups = optimizer.state_dict()["param_groups"]
    before = _groups_before(groups, saved["param_groups"], [place[name] for name in names])
    options = [
        {**saved["param_groups"][old], "params": group["params"]} for old, group in zip(before, groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": options})
    schedule = torch.load(folder / SCHEDULE, weights_only=True)
    scheduler.load_state_dict(_scheduled(schedule, before, len(saved["param_groups"])))


def _groups_before(
    groups: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]], places: Sequence[int]
) -> list[int]:
    """In which of the saved groups the parameters of each group were: an engine may make several of one."""
    group_of = {index: number for number, group in enumerate(saved) for index in group["params"]}
    return [group_of[places[group["params"][0]]] if group["params"] else n for n, group in enumerate(groups)]


def _scheduled(state: dict[str, Any], before: Sequence[int], groups: int) -> dict[str, Any]:
    """The state of a scheduler for these groups; it is of `groups` others, with an entry for each in its lists."""
    return {
        name: [value[old] for old in before] if isinstance(value, list) and len(value) == groups else value
        for name, value in state.items()
    }


def _split_like(parameter: Tensor, value: Any) -> Any:
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # whole weights; or a number for the whole parameter, such as its steps
    value = value.to(parameter.to_local().device)
    # Every process has read the whole: none of them has to send its own (`src_data_rank` None).
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
