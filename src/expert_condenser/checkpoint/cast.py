"""A float32 model saved in another dtype, each tensor in the one that its family keeps it in."""

import shutil
from pathlib import Path
from typing import Any

import torch

from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError

_WHOLE = ".float32"


def save_in(model: Any, dtype: torch.dtype, folder: Path) -> None:
    """Save the weights of a float32 model in `dtype`, and check what was saved.

    `model.to(dtype)` would round what decides the routing: 30 families keep tensors such as `e_score_correction_bias`
    in float32 beside bfloat16 weights, and send 5 to 8 % of the tokens elsewhere without. Which they are is known to
    `from_pretrained`; so the model is saved whole, loaded as its users will, and saved again. Raises `CheckpointError`
    where what was saved is not what was loaded.
    """
    if dtype == torch.float32:
        model.save_pretrained(folder)
        return
    whole, name = folder / _WHOLE, str(dtype).removeprefix("torch.")
    model.save_pretrained(whole)
    cast = load_model(whole, name)
    cast.generation_config = model.generation_config
    cast.save_pretrained(folder)
    shutil.rmtree(whole)
    exact, saved = model.state_dict(), load_model(folder, name).state_dict()
    for key, tensor in cast.state_dict().items():
        wanted = exact[key].to(tensor.dtype)
        if not torch.equal(tensor, wanted) or saved[key].dtype != tensor.dtype or not torch.equal(saved[key], tensor):
            raise CheckpointError(f"{folder} must hold what was trained, and {key} in it differs; save it again")
