"""Load a model with a language head: every weight of it, or an error."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from expert_condenser.checkpoint.config import check_adapter, check_index, check_room, read_config
from expert_condenser.checkpoint.guard import check_readable
from expert_condenser.errors import CheckpointError
from expert_condenser.files import read_object
from expert_condenser.moe.experts import default_implementation, register_for_quantised
from expert_condenser.moe.own_types import auto_class
from expert_condenser.moe.sparse_block import run_sparsely
from expert_condenser.moe.state import check_saved_types

ADAPTER_CONFIG = "adapter_config.json"


EMBEDDED = {"testbed": "base", "testbed-v1": "base-v1"}
"""The embedded base models: the present one, and the first one (of the first study), in folders of `testbed/`."""


def base_model_path(name: str = "testbed") -> Path:
    """The directory of an embedded base model (`condenser testbed pretrain` makes it again)."""
    path = Path(__file__).parents[1] / "testbed" / EMBEDDED[name]
    if not (path / "config.json").exists():
        raise CheckpointError(f"the embedded base model must be in {path}; reinstall the package, or pretrain it again")
    return path


def resolve_model(name: str) -> str:
    """The directory of an embedded base model, or of the model in a run's folder; else it is one, or a hub name."""
    if name in EMBEDDED:
        return str(base_model_path(name))
    inner, known = Path(name) / "model", ("config.json", ADAPTER_CONFIG)
    is_run = (inner / "config.json").is_file() and not any((Path(name) / file).exists() for file in known)
    return str(inner) if is_run else name


def embedded_name(path: str) -> str | None:
    """What an embedded base model is called, by its directory; None for every other one."""
    folder = Path(__file__).parents[1] / "testbed"
    return next((name for name, place in EMBEDDED.items() if Path(path) == folder / place), None)


def load_model(path: str | Path, dtype: str | torch.dtype = "float32", *, train: bool = False, **options: Any) -> Any:
    """A model with a language head from a directory or the hub, every weight of it; of an adapter, its base with it.

    `train`: an adapter goes on training. `options` are those of `from_pretrained`; `experts_implementation` None is
    our choice for the machine. Raises `CheckpointError` where the directory is missing, a file is
    damaged, or weights are missing or of another shape; nothing is left at random values.
    """
    check_readable(Path(path))
    check_index(Path(path))
    try:
        if (Path(path) / ADAPTER_CONFIG).exists():
            return _load_adapter(Path(path), dtype, train, options)
        return _load_whole(path, dtype, options)
    except CheckpointError:
        raise
    # What a family's class, PEFT or safetensors raises on files that are not as it expects them is no closed list.
    except Exception as error:
        said = str(error) if isinstance(error, OSError | ValueError | RuntimeError) else repr(error)
        raise CheckpointError(f"{path} cannot be loaded as a whole model: {said}") from error


def _load_whole(path: str | Path, dtype: str | torch.dtype, options: dict[str, Any]) -> Any:
    config = read_config(path, **{name: options[name] for name in ("revision",) if name in options})
    check_room(Path(path), config)
    kind = auto_class(type(config))
    options = {**options, "experts_implementation": options.get("experts_implementation") or default_implementation()}
    register_for_quantised()
    model, info = kind.from_pretrained(
        path,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,  # nobody is asked, at a terminal, whether code from the directory may run
        weights_only=True,
        **options,
    )
    lost = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind]})
    if lost:
        raise CheckpointError(f"{path} must hold every weight of the model; missing or of another shape: {lost[:4]}")
    _own_memory(model)
    run_sparsely(model, options["experts_implementation"])
    return model


def _load_adapter(path: Path, dtype: str | torch.dtype, train: bool, options: dict[str, Any]) -> Any:
    content = read_object(path / ADAPTER_CONFIG)
    check_adapter(path, content)
    check_saved_types(path)
    base = content["base_model_name_or_path"]
    if (Path(base) / ADAPTER_CONFIG).exists():
        raise CheckpointError(f"the base of an adapter is a whole model; {path} names {base}, which is an adapter")
    model = PeftModel.from_pretrained(load_model(base, dtype, **options), path, is_trainable=train)
    with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        saved, wanted = set(file.keys()), set(get_peft_model_state_dict(model))
    if saved != wanted:
        raise CheckpointError(
            f"{path} must hold the whole adapter; missing: {sorted(wanted - saved)[:4]}, "
            f"unexpected: {sorted(saved - wanted)[:4]}"
        )
    return model


def _own_memory(model: Any) -> None:
    """Move weights out of the mapped file: GEMMs round by alignment, and a resumed run must round as before."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; raises `CheckpointError` where there is none. `revision` is of a hub model."""
    options = {} if revision is None else {"revision": revision}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
    # The tokenizers library raises plain `Exception` on a file that it cannot read.
    except Exception as error:
        said = str(error) if isinstance(error, OSError | ValueError) else repr(error)
        raise CheckpointError(f"{path} must have a tokenizer; it cannot be loaded: {said}") from error
    return tokenizer
