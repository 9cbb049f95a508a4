"""A few steps of plain fine-tuning after a pruning, through the ordinary training: a run of its own."""

from pathlib import Path

from expert_condenser.surgery.pruning import MODEL, Pruning
from expert_condenser.training.parse import parse_recipe
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.run import train

HEALED = "healed"


def heal(pruning: Pruning, folder: Path, steps: int, config: Path | None = None) -> Path:
    """Tune the pruned model of `folder` by `sft`, and ask it the same again; returns the directory of the model.

    A model with a bias and condensers keeps both as they are. `config` is a recipe, whose model, method, steps and
    folder are set here.
    """
    model = train(healing_recipe(folder, steps, config, pruning.request.data))
    pruning.add_version(HEALED, model, folder)
    pruning.write(folder)
    return model


def healing_recipe(folder: Path, steps: int, config: Path | None, data: str | None) -> Recipe:
    """Raises `TrainingError` where the recipe cannot be read."""
    words = ["--config", str(config)] if config is not None else ["--data", str(data), "--save_strategy", "no"]
    fixed = {"model": folder / MODEL, "method": "sft", "max_steps": steps, "output_dir": folder / HEALED}
    return parse_recipe([*words, *(word for name, value in fixed.items() for word in (f"--{name}", str(value)))])
