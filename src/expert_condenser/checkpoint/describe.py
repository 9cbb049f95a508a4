"""What lies beside the weights of a saved model: how to load it, and how it was made."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.card import PROVENANCE, write_card
from expert_condenser.checkpoint.cast import save_in
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.checkpoint.local_names import with_local_names
from expert_condenser.files import MANIFEST, read_object, write_json
from expert_condenser.moe.layers import MODEL_TYPE_PREFIX
from expert_condenser.moe.own_types import auto_class, own_config_class, own_trunk_class

CODE_MODULE = "expert_condenser_model"
_OF_TRAINING = ("method_state.json", "usage.safetensors", MANIFEST)

_CODE = '''"""This model routes with a selection bias and condenser experts: pip install expert-condenser."""

import sys

from expert_condenser.architectures import auto_class, own_config_class, own_model_class, own_trunk_class

{config} = own_config_class("{model_type}")
{model} = own_model_class("{model_type}")
_server = sys.modules.get("transformers.cli.serving.model_manager")
if _server is not None:  # `transformers serve` looks for the class there
    _server.transformers.{model} = {model}
'''


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    provenance: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Weights and router state of a float32 model in safetensors, config, tokenizer, and what `describe_model` adds."""
    save_in(model, dtype, folder)
    tokenizer.save_pretrained(folder)
    describe_model(folder, provenance)


def save_stock(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, provenance: dict[str, Any]) -> None:
    """A model of a stock type with the dtypes that its tensors have, its tokenizer, `provenance.json` and a card."""
    make_savable(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_papers(folder, provenance)


def write_papers(folder: Path, provenance: dict[str, Any]) -> None:
    """`provenance.json` and a card beside the weights, from where the paths in it are found."""
    write_json(folder / PROVENANCE, with_local_names(provenance))
    write_card(folder)


def copy_model(source: Path, target: Path) -> None:
    """Copy a saved model and its tokenizer out of a training's directory, and nothing else of it."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt") and file.name not in _OF_TRAINING:
            shutil.copy2(file, target / file.name)


def provenance_of(path: str | Path) -> dict[str, Any]:
    """What the directory of a saved model says about how it was made; nothing where it says nothing."""
    file = Path(path) / PROVENANCE
    return read_object(file) if file.is_file() else {}


def is_pruned(path: str | Path) -> bool:
    """Whether the directory of a model says that experts were removed from it."""
    return "pruned" in provenance_of(path)


def describe_model(folder: Path, provenance: dict[str, Any]) -> None:
    """Add `provenance.json` and a card to a saved model; to one of our own type, the code file that loads it.

    `trust_remote_code=True` runs that file, which only imports `expert_condenser`, and shows the class to
    `transformers serve` where that is what runs.
    """
    if (folder / "config.json").exists():
        _add_code(folder)
    write_papers(folder, provenance)


def _add_code(folder: Path) -> None:
    path = folder / "config.json"
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
    code = _CODE.format(model_type=family, **names)
    if (trunk := own_trunk_class(family)) is not None:
        config["auto_map"]["AutoModel"] = f"{CODE_MODULE}.{trunk.__name__}"
        code += f'{trunk.__name__} = own_trunk_class("{family}")\n'
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / f"{CODE_MODULE}.py").write_text(code)
