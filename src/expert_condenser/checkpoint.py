"""Directories on disk: a finished model, and checkpoints that say themselves whether they are whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from expert_condenser.architectures import auto_class, own_config_class
from expert_condenser.errors import CheckpointError
from expert_condenser.implementation import default_implementation
from expert_condenser.models import MODEL_TYPE_PREFIX

MANIFEST = "manifest.json"
ADAPTER_CONFIG = "adapter_config.json"
CODE_MODULE = "expert_condenser_model"
_OF_TRAINING = ("method_state.json", "usage.safetensors", MANIFEST)

_CODE = '''"""This model routes with a selection bias and condenser experts: pip install expert-condenser."""

from expert_condenser.architectures import auto_class, own_config_class, own_model_class

{config} = own_config_class("{model_type}")
{model} = own_model_class("{model_type}")
'''
_README = """# {name}

Fine-tuned with expert-condenser. Its routers hold a selection bias and condenser experts, which stock
classes would ignore; that is why its model type is `{model_type}`. To load it:

    pip install expert-condenser

    import expert_condenser
    from transformers import {auto}
    model = {auto}.from_pretrained("{name}")

`provenance.json` says how it was made.
"""

_ADAPTER_README = """# {name}

A LoRA adapter, fine-tuned with expert-condenser; `adapter_config.json` names its base, `provenance.json` says how
it was made. It may hold the selection bias and the condensers of the routers. To load it:

    pip install expert-condenser

    from expert_condenser.checkpoint import load_model
    model = load_model("{name}")
"""


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, provenance: dict[str, Any]) -> None:
    """Weights and router state in safetensors, config, tokenizer, and what `describe_model` adds."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    describe_model(folder, provenance)


def copy_model(source: Path, target: Path) -> None:
    """Copy a saved model and its tokenizer out of a training's directory, and nothing else of it."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt") and file.name not in _OF_TRAINING:
            shutil.copy2(file, target / file.name)


def describe_model(folder: Path, provenance: dict[str, Any]) -> None:
    """Add `provenance.json` to a saved model; and to one of our own type how to load it.

    That is the code file which `trust_remote_code=True` runs (it only imports `expert_condenser`), and a
    README that says what to install.
    """
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    path = folder / "config.json"
    if not path.exists():
        (folder / "README.md").write_text(_ADAPTER_README.format(name=folder.name))
        return
    config = json.loads(path.read_text())
    model_type = config["model_type"]
    if not model_type.startswith(MODEL_TYPE_PREFIX):
        return
    family = model_type.removeprefix(MODEL_TYPE_PREFIX)
    config_class = own_config_class(family)
    names = {"config": config_class.__name__, "model": config["architectures"][0]}
    auto = auto_class(config_class.base_class).__name__
    config["auto_map"] = {
        "AutoConfig": f"{CODE_MODULE}.{names['config']}",
        auto: f"{CODE_MODULE}.{names['model']}",
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / f"{CODE_MODULE}.py").write_text(_CODE.format(model_type=family, **names))
    (folder / "README.md").write_text(_README.format(name=folder.name, model_type=model_type, auto=auto))


def load_model(path: str | Path, dtype: str | torch.dtype = "float32", *, train: bool = False, **options: Any) -> Any:
    """A model with a language head from a directory or the hub, every weight of it; of an adapter, its base with it.

    `train`: an adapter goes on training. `options` are those of `from_pretrained`; `experts_implementation` None is
    our choice for the machine. Raises `CheckpointError` where the directory is missing, a file is
    damaged, or weights are missing or of another shape; nothing is left at random values.
    """
    check_readable(Path(path))
    try:
        if (Path(path) / ADAPTER_CONFIG).exists():
            return _load_adapter(Path(path), dtype, train, options)
        return _load_whole(path, dtype, options)
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be loaded as a whole model: {error}") from error


def _load_whole(path: str | Path, dtype: str | torch.dtype, options: dict[str, Any]) -> Any:
    kind = auto_class(type(AutoConfig.from_pretrained(path)))
    options = {**options, "experts_implementation": options.get("experts_implementation") or default_implementation()}
    model, info = kind.from_pretrained(
        path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    lost = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind]})
    if lost:
        raise CheckpointError(f"{path} must hold every weight of the model; missing or of another shape: {lost[:4]}")
    _own_memory(model)
    return model


def _load_adapter(path: Path, dtype: str | torch.dtype, train: bool, options: dict[str, Any]) -> Any:
    base = json.loads((path / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
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


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; raises `CheckpointError` where there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must have a tokenizer; it cannot be loaded: {error}") from error
    return tokenizer


def check_readable(folder: Path) -> None:
    """Raise `CheckpointError` if a safetensors file of a local directory is truncated or damaged."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is damaged or truncated ({error}); restore it or take another checkpoint"
            ) from error


def write_manifest(folder: Path) -> None:
    """Close a checkpoint: the sizes of its files, written after all of them."""
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    sizes.pop(MANIFEST, None)
    (folder / MANIFEST).write_text(json.dumps(sizes, indent=2) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was closed and its files still have the sizes they had."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())
        check_readable(folder)
    except (OSError, json.JSONDecodeError, CheckpointError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole `checkpoint-N` of a directory, and the newer ones that are not whole."""
    broken: list[Path] = []
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        if is_whole(path):
            return path, broken
        broken.append(path)
    return None, broken


def clear(folder: Path) -> None:
    """Delete a directory's content."""
    if folder.exists():
        shutil.rmtree(folder)
