"""TRL's trainer with two differences: a loss that is not finite stops it, and it evaluates the nll alone."""

from typing import Any

import torch
from trl import SFTTrainer

from expert_condenser.errors import TrainingError


class StrictSFTTrainer(SFTTrainer):
    """The trainer of every run."""

    aux_loss_enabled: bool

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; raises `TrainingError` on NaN or infinity, before it reaches the weights."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; the run stops and keeps its last "
                "checkpoint. Lower learning_rate or check the data, then --resume."
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in TRL, without the auxiliary loss: `eval_loss` is the nll of the evaluation data."""
        if not self.aux_loss_enabled:
            return super().evaluate(*args, **kwargs)
        config = self.model.config.get_text_config()
        self.aux_loss_enabled = config.output_router_logits = False
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.aux_loss_enabled = config.output_router_logits = True
