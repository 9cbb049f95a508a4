"""The embedded default: a small MoE language model, pretrained by this project, and its tasks."""

from pathlib import Path

from expert_condenser.errors import CheckpointError


def base_model_path() -> Path:
    """The directory of the embedded base model (`condenser testbed pretrain` makes it again)."""
    path = Path(__file__).parent / "base"
    if not (path / "config.json").exists():
        raise CheckpointError(f"the embedded base model must be in {path}; reinstall the package, or pretrain it again")
    return path


def finetune_recipe_path() -> Path:
    """The recipe of one fine-tuning run on the embedded base, for `condenser train --config`."""
    return Path(__file__).parent / "finetune.yaml"
