"""The embedded default: a small MoE language model, pretrained by this project, and its tasks."""

from pathlib import Path


def finetune_recipe_path() -> Path:
    """The recipe of one fine-tuning run on the embedded base, for `condenser train --config`."""
    return Path(__file__).parent / "finetune.yaml"
