"""The config of a model, read before anything is made by its numbers; and whether its files can be those of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_utils import set_zero3_state

from expert_condenser.errors import CheckpointError, UnsupportedModelError
from expert_condenser.files import is_file_name
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import auto_class
from expert_condenser.moe.saved_tensors import saved_tensors

_LAYERS = re.compile(r"(^|_)n(um)?_(\w+_)?(layers?|blocks)$|coder_layers$|(^|_)depths?$")
"""How many layers there are, of any part of a model."""
_MOST = (
    (_LAYERS, 512),
    (re.compile(r"(^|_)n(um)?_(\w+_)?experts$"), 65_536),
    (re.compile(r"vocab_size$"), 4_194_304),
)
"""Modules, lists and loops are made by these numbers, which no published model comes near."""
_LONGEST = 1_024
"""Entries of a list in a config: modules are made by lists too."""
_SIZES = ("r", "num_virtual_tokens", "encoder_hidden_size")
"""What the config of an adapter gives its tensors."""
_NAMED_BY = (
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_pattern",
    "target_parameters",
)
"""Where the config of an adapter has regular expressions that PEFT matches with the names of a model's modules."""
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_MOST_REPETITIONS = 5
_INDEX = "*.index.json"
_ROOM = 2
"""Times the numbers in its files that a model may have: what a family computes is in none."""
_COMPUTED = 2**26
"""Numbers that it may compute besides, as tables of positions are."""


def read_config(path: str | Path, **options: Any) -> Any:
    """The config of a model in a directory or on the hub; code that lies beside it is not run.

    Raises `CheckpointError` where there is none, where it cannot be one of its family, and where it asks for more
    layers or experts than any model has.
    """
    try:
        content, _ = PreTrainedConfig.get_config_dict(path, **options)
        _check_counts(path, content)
        return AutoConfig.from_pretrained(path, trust_remote_code=False, **options)
    except CheckpointError:
        raise
    # Config classes convert and check what they read with whatever fails first; huggingface_hub has errors of its own.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded; it must have the config of a model: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OSError | ValueError) else repr(error)


def _check_counts(path: str | Path, content: Any) -> None:
    for key, length in _lengths(content):
        if length > _LONGEST:
            raise CheckpointError(
                f"{path}: {key} is a list of up to {_LONGEST:,} entries; got {length:,}. It is no config of a model."
            )
    for key, value in _numbers(content):
        most = next((most for pattern, most in _MOST if pattern.search(key)), None)
        if most is not None and not 0 <= value <= most:
            raise CheckpointError(
                f"{path}: {key} is a number up to {most:,}; got {value!r:.60}. It is no config of a model."
            )


def _numbers(content: Any) -> Iterator[tuple[str, int | float]]:
    """Every number in a config, also in its lists, with its key."""
    for key, value in content.items() if isinstance(content, dict) else ():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield str(key), one
            yield from _numbers(one)


def _lengths(content: Any) -> Iterator[tuple[str, int]]:
    """Of every list in a config, but for those of what is quantised, which name weights."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == "quantization_config":
            continue
        if isinstance(value, list | tuple):
            yield str(key), len(value)
        for one in value if isinstance(value, list | tuple) else (value,):
            yield from _lengths(one)


def check_room(path: Path, config: Any) -> None:
    """Raise `CheckpointError` where a model of this config has far more numbers than the files of a directory.

    `from_pretrained` would take the memory for all that it does not find. Quantised weights are left to it.
    """
    sizes = [tensor.numel for tensor in saved_tensors(path)]
    held = sum(sizes)
    if not sizes or getattr(config, "quantization_config", None) is not None:
        return
    # A layer has a tensor at least, and to make thousands of layers takes seconds even without memory.
    layers = max((value for key, value in _numbers(config.to_dict()) if _LAYERS.search(key)), default=0)
    if layers > len(sizes):
        raise CheckpointError(
            f"{path} must hold every layer of the model that its config describes, {layers:,} of one kind; its files "
            f"have {len(sizes):,} tensors. Restore config.json, or take another checkpoint."
        )
    model = without_memory(config)
    wanted, computed = (sum(each.numel() for each in them) for them in (model.parameters(), model.buffers()))
    if wanted > _ROOM * held:
        raise CheckpointError(
            f"{path} must hold every weight of the model that its config describes, {wanted:,} numbers; its files have "
            f"{held:,}. Restore config.json, or take another checkpoint."
        )
    if computed > _ROOM * held + _COMPUTED:
        raise CheckpointError(
            f"{path}: a model keeps few numbers beside its weights; that of its config has {computed:,}, and the files "
            f"have {held:,} in all. Restore config.json, or take another checkpoint."
        )


def without_memory(config: Any) -> Any:
    """A model of this config on `meta`; raises `CheckpointError` where its family makes none of it."""
    try:
        # Under ZeRO-3 transformers would split the weights of every model that is made, and here there are none.
        with torch.device("meta"), set_zero3_state():
            # Of a copy: a model writes into its config which implementations it took.
            model = auto_class(type(config)).from_config(type(config).from_dict(config.to_dict()))
        _check_choices(model)
        return model
    except CheckpointError:
        raise
    except Exception as error:  # divisions by zero, negative sizes, ids out of range: each family its own
        raise CheckpointError(f"the config of a {config.model_type} makes no model: {_said(error)}") from error


def _check_choices(model: Any) -> None:
    try:
        layers = moe_layers(model)
    except UnsupportedModelError:  # a dense model, or one whose routing is not known here, can be asked as well
        return
    for layer in layers:
        if not 1 <= layer.top_k <= layer.num_experts:
            raise CheckpointError(f"{layer.name} chooses from {layer.num_experts} experts; got {layer.top_k} to choose")


def check_index(folder: Path) -> None:
    """Raise `CheckpointError` where the index of a directory's weights names a file outside of it."""
    for index in sorted(folder.glob(_INDEX)):
        try:
            files = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index} says in which file each tensor is; it cannot be read: {error!r}") from error
        if outside := sorted(name for name in files if not is_file_name(name)):
            raise CheckpointError(f"{index} names files beside it; got {outside[0]!r}")


def check_adapter(folder: Path, content: dict[str, Any]) -> None:
    """Raise `CheckpointError` where the config of an adapter names no base, or asks for more than its file holds.

    PEFT takes the memory of an adapter by its config, before it reads the file.
    """
    if not isinstance(content.get("base_model_name_or_path"), str):
        raise CheckpointError(f"{folder} is an adapter, whose config names its base; got {content!r:.200}")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"an adapter is saved as safetensors; {file} is missing: save it again")
    with safe_open(file, framework="pt") as tensors:
        largest = max((max(tensors.get_slice(key).get_shape(), default=0) for key in tensors.keys()), default=0)  # noqa: SIM118 - it is no dict
    _check_patterns(folder, content)
    pattern = content.get("rank_pattern")
    sizes = {name: content[name] for name in _SIZES if content.get(name) is not None}
    sizes |= pattern if isinstance(pattern, dict) else {}
    for name, size in sizes.items():
        if type(size) is not int or not 0 <= size <= largest:
            raise CheckpointError(
                f"{folder}: {name} is a size of tensors in {file.name}, up to {largest}; got {size!r:.60}"
            )


def _check_patterns(folder: Path, content: dict[str, Any]) -> None:
    """Python's matching takes exponential time where a group is repeated, and a power of the length otherwise."""
    for field in _NAMED_BY:
        value = content.get(field)
        for pattern in [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else []:
            repetitions = len(re.findall(r"[*+{]", str(pattern)))
            if _REPEATED_GROUP.search(str(pattern)) or repetitions > _MOST_REPETITIONS:
                raise CheckpointError(
                    f"{folder}: {field} names modules, with up to {_MOST_REPETITIONS} repetitions and none of a group; "
                    f"got {pattern!r:.80}. Name the modules in a list."
                )
