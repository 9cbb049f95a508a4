"""`transformers serve` for a tuned model: an OpenAI-compatible server that runs no code from the checkpoint."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from expert_condenser.checkpoint.load import ADAPTER_CONFIG, resolve_model
from expert_condenser.errors import ExportError
from expert_condenser.moe.layers import MODEL_TYPE_PREFIX


def serve(model: str, options: list[str]) -> None:
    """Run `transformers serve MODEL OPTIONS` in this process, which knows our model types.

    Raises `ExportError` where the model is not one that can be served, or the server's packages are not installed.
    """
    path = resolve_model(model)
    check_servable(Path(path))
    server = _server()
    offer_classes(path)
    cache = Path(_hub_cache())
    cache.mkdir(parents=True, exist_ok=True)  # the server lists it, and fails where it is not there
    server(["serve", path, *options], prog_name="transformers")


def check_servable(path: Path) -> None:
    """Raise `ExportError` where a directory is no whole model with a tokenizer; a hub name passes."""
    if not path.is_dir():
        if path.is_absolute() or len(path.parts) > 2 or path.exists():
            raise ExportError(f"a model is a directory or a hub name; {path} is neither")
        return
    if (path / ADAPTER_CONFIG).exists():
        raise ExportError(f"{path} is an adapter; whole models are served: take the run's model/, where it is merged")
    if not (path / "config.json").exists():
        raise ExportError(f"{path} has no config.json; a model is what a run leaves in model/")
    if "@" in str(path.absolute()):
        raise ExportError(f"the server reads what follows an @ as a revision; give {path} another name")


def offer_classes(path: str) -> Any:
    """Let the server find our class of this model; returns the class, None for a model of a stock type.

    It looks an architecture up as an attribute of the module `transformers`, as its module `model_manager` holds it.
    """
    from transformers import AutoConfig

    from expert_condenser.moe.own_types import own_model_class

    config = AutoConfig.from_pretrained(path)
    if not config.model_type.startswith(MODEL_TYPE_PREFIX):
        return None
    made = own_model_class(config.model_type.removeprefix(MODEL_TYPE_PREFIX))
    # Not a public interface; there is none. `import transformers` itself may give another object than this one.
    manager = import_module("transformers.cli.serving.model_manager")
    setattr(manager.transformers, made.__name__, made)
    return made


def _server() -> Any:
    """The command `transformers`, with what its server needs."""
    for package in ("fastapi", "uvicorn", "openai"):
        try:
            import_module(package)
        except ImportError as error:
            raise ExportError(f"serving needs {package}: pip install 'expert-condenser[serve]'") from error
    from transformers.cli.transformers import app  # the object behind its command; `main` also asks for updates

    return app


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return os.fspath(HF_HUB_CACHE)
