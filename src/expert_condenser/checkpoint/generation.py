"""The generation config that a model is saved with: transformers loads some that it refuses to save."""

import logging
from typing import Any

from expert_condenser.errors import CheckpointError

logger = logging.getLogger(__name__)


def make_savable(model: Any) -> None:
    """Mend a generation config that could not be saved after hours of training, or raise `CheckpointError` now.

    Bases are published with a temperature and without `do_sample`, which transformers reads and does not write. Whoever
    sets a temperature means to sample, as serving engines take it too: `do_sample` becomes true.
    """
    config = getattr(model, "generation_config", None)
    if config is None or _is_savable(config) is None:
        return
    sampled = config.do_sample
    config.do_sample = True
    reason = _is_savable(config)
    if reason is not None:
        config.do_sample = sampled
        raise CheckpointError(f"the model's generation_config cannot be saved: {reason}. Correct it in the base model.")
    logger.warning("the base's generation_config has a temperature without do_sample: do_sample is set to true")


def _is_savable(config: Any) -> str | None:
    """Why transformers would refuse to save it; None where it would not."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None
