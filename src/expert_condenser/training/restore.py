"""The whole weights of a checkpoint, in a model that is in training: transformers' `Trainer` loads a part of them.

`Trainer` reads a checkpoint into the model with `strict=False`, and on disk most families have a key per expert. So a
resume, or the best model at the end, would have attention and routers of the checkpoint beside experts of another step.
"""

from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from peft import PeftModel

from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError, TrainingError
from expert_condenser.moe.split import is_split

logger = get_logger(__name__)


def restore_weights(model: Any, checkpoint: Path) -> None:
    """Give a model every weight of a checkpoint, in place; it is loaded a second time for that.

    Adapters, and weights that FSDP or DeepSpeed split over processes, `Trainer` loads whole itself. Raises
    `TrainingError` where the checkpoint cannot be loaded, or is of another model.
    """
    if isinstance(model, PeftModel) or is_split(model):
        return
    logger.info(f"every weight is read from {checkpoint}, also the experts that the Trainer has left out")
    try:
        model.load_state_dict(load_model(checkpoint, "auto").state_dict())
    except (CheckpointError, RuntimeError) as error:
        raise TrainingError(
            f"a training goes on from whole weights, and those in {checkpoint} cannot be read: {error}. Start from the "
            "model that the checkpoint is of, or from load_model(checkpoint)."
        ) from error
