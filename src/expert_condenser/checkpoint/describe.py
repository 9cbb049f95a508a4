"""What lies beside the weights of a saved model: how to load it, and how it was made."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.cast import save_in
from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.files import MANIFEST, read_json
from expert_condenser.moe.layers import MODEL_TYPE_PREFIX
from expert_condenser.moe.own_types import auto_class, own_config_class, own_trunk_class

PROVENANCE = "provenance.json"
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

    from expert_condenser.checkpoint.load import load_model
    model = load_model("{name}")
"""


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
    """A model of a stock type with the dtypes that its tensors have, its tokenizer, and `provenance.json`."""
    make_savable(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")


def copy_model(source: Path, target: Path) -> None:
    """Copy a saved model and its tokenizer out of a training's directory, and nothing else of it."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt") and file.name not in _OF_TRAINING:
            shutil.copy2(file, target / file.name)


def provenance_of(path: str | Path) -> dict[str, Any]:
    """What the directory of a saved model says about how it was made; nothing where it says nothing."""
    file = Path(path) / PROVENANCE
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def is_pruned(path: str | Path) -> bool:
    """Whether the directory of a model says that experts were removed from it."""
    return "pruned" in provenance_of(path)


def describe_model(folder: Path, provenance: dict[str, Any]) -> None:
    """Add `provenance.json` to a saved model; and to one of our own type how to load it.

    That is a README that says what to install, and the code file which `trust_remote_code=True` runs: it only imports
    `expert_condenser`, and shows the class to `transformers serve` where that is what runs.
    """
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
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
    code = _CODE.format(model_type=family, **names)
    if (trunk := own_trunk_class(family)) is not None:
        config["auto_map"]["AutoModel"] = f"{CODE_MODULE}.{trunk.__name__}"
        code += f'{trunk.__name__} = own_trunk_class("{family}")\n'
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / f"{CODE_MODULE}.py").write_text(code)
    (folder / "README.md").write_text(_README.format(name=folder.name, model_type=model_type, auto=auto))
