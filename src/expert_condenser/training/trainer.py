"""TRL's trainer with three differences: a loss that is not finite stops it, it evaluates the nll alone, and a resumed
run finds the order of rows grouped by length again.
"""

from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from expert_condenser.errors import TrainingError


class SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that follows from seed and epoch alone.

    Transformers draws it from the global generator, which a resumed run finds in another state.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader at the start of every epoch."""
        self.generator = torch.Generator().manual_seed(self.seed + epoch)


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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
            return SeededLengthSampler(sampler, seed)
        return sampler

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
