"""TRL's trainer with five differences: a loss that is not finite stops it, it evaluates the nll alone, a resumed run
finds the order of rows grouped by length again, the routers may learn at a rate of their own, and phases may share one
learning-rate schedule.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import SaveStrategy
from trl import SFTTrainer

from expert_condenser.checkpoint.guard import states_named
from expert_condenser.errors import FailedRunError, TrainingError
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import parameter_groups
from expert_condenser.moe.slices import without_slices, write_slices_back
from expert_condenser.moe.split import is_split
from expert_condenser.training.engines import check_engine
from expert_condenser.training.engines.fsdp import fsdp_on
from expert_condenser.training.engines.optimizer_state import NAMES, SCHEDULE, STATE, load_state, save_names, save_state
from expert_condenser.training.refusals import refusals_named
from expert_condenser.training.schedule import WHOLE, Stretch, continued


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


def split_router_groups(optimizer: torch.optim.Optimizer, model: Any, factor: float) -> None:
    """Move the parameters of the routers into groups with `factor` times the learning rate, behind the others.

    Raises `TrainingError` where no router trains, so that the factor would have no effect.
    """
    groups = parameter_groups(model, moe_layers(model))
    routers = {id(p) for name, p in model.named_parameters() if groups[name] == "router"}
    found = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in routers]
        group["params"] = [p for p in group["params"] if id(p) not in routers]
        if own:
            found.append({**group, "params": own, "lr": factor * group["lr"]})
    if not found:
        raise TrainingError(
            f"router_learning_rate_factor = {factor} has no effect: no router trains. Leave it out, or let them train."
        )
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    for group in found:
        optimizer.add_param_group(group)


def split_by_factor(optimizer: torch.optim.Optimizer, model: Any, factors: Mapping[str, float]) -> None:
    """Give the named parameters groups with their factor times the rate of the group that they are in."""
    factor_of = {id(p): factors[name] for name, p in model.named_parameters() if name in factors}
    found = []
    for group in optimizer.param_groups:
        parameters = group["params"]
        for factor in sorted({factor_of.get(id(p), 1.0) for p in parameters}):
            own = [p for p in parameters if factor_of.get(id(p), 1.0) == factor]
            found.append({**group, "params": own, "lr": factor * group["lr"]})
    optimizer.param_groups.clear()
    for group in found:
        optimizer.add_param_group(group)


@contextmanager
def own_checkpoints(args: Any, model: Any) -> Iterator[None]:
    """Let a trainer be made that saves checkpoints of weights which transformers has split while it loaded them.

    It refuses that when it is made, since it has no resume for them; ours is below.
    """
    asked = args.save_strategy
    if getattr(model, "is_distributed_loading_by_transformers", False):
        args.save_strategy = SaveStrategy.NO
    try:
        yield
    finally:
        args.save_strategy = asked


class StrictSFTTrainer(SFTTrainer):
    """The trainer of every run."""

    aux_loss_enabled: bool
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def __init__(
        self,
        *args: Any,
        router_learning_rate_factor: float = 1.0,
        learning_rate_factors: Mapping[str, float] = MappingProxyType({}),
        stretch: Stretch = WHOLE,
        **kwargs: Any,
    ) -> None:
        self.learning_rate_factors = learning_rate_factors
        self.router_learning_rate_factor = router_learning_rate_factor
        self.stretch = stretch
        self._not_finite: torch.Tensor | None = None
        given = kwargs["args"]
        with refusals_named(), own_checkpoints(given, kwargs["model"]), fsdp_on(given.device):
            super().__init__(*args, **kwargs)
        check_engine(self.accelerator.distributed_type.value, self.accelerator.num_processes)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in transformers."""
        with refusals_named():
            return super().get_train_dataloader()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As in transformers; the routers get groups of their own where they learn at another rate."""
        if self.optimizer is not None:  # transformers asks more than once
            return super().create_optimizer(*args, **kwargs)
        with refusals_named():
            optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if self.router_learning_rate_factor != 1.0:
            split_router_groups(optimizer, self.model, self.router_learning_rate_factor)
        if self.learning_rate_factors:
            split_by_factor(optimizer, self.model, self.learning_rate_factors)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """As in transformers; of several phases that share a schedule, the part of this one."""
        known: torch.optim.lr_scheduler.LRScheduler | None = self.lr_scheduler
        if known is not None:  # transformers asks more than once
            return known
        with refusals_named():
            made = super().create_scheduler(num_training_steps * self.stretch.phases, optimizer)
        scheduler: torch.optim.lr_scheduler.LRScheduler = made
        if self.stretch.phases > 1:
            scheduler = continued(scheduler, optimizer or self.optimizer, num_training_steps * self.stretch.position)
            self.lr_scheduler = scheduler
        return scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; raises `FailedRunError` on NaN or infinity, before it reaches the weights.

        Of several processes all raise it, after the last micro-batch of the step: one that was gone before would leave
        the others waiting.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            self._not_finite = loss
        several = self.accelerator.num_processes > 1
        if self.accelerator.sync_gradients if several else self._not_finite is not None:
            self._check_finite(loss.device)
        return loss

    def _check_finite(self, device: torch.device) -> None:
        own, self._not_finite = self._not_finite, None
        found = torch.tensor(int(own is not None), device=device)
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(found)
        if found:
            what = f"{own.item()}" if own is not None else "not finite in another process"
            raise FailedRunError(
                f"the loss is {what} at step {self.state.global_step + 1}; the run stops and keeps its last "
                "checkpoint. Lower learning_rate or check the data, then --resume."
            )

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the slices that train in the weights that they are of."""
        write_slices_back(self.model)
        super().save_model(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As in transformers; DeepSpeed gathers weights past the hooks of `state_dict`, and so the slices as well."""
        # The only place between the gathering and the file.
        super()._save(output_dir, state_dict if state_dict is None else without_slices(state_dict))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As in transformers; of split weights the state is written whole, as that of one process.

        There is no public place for it. accelerate's FSDP writes files that no other engine reads.
        """
        folder, writes = Path(output_dir), self.args.should_save
        if not self.is_deepspeed_enabled and is_split(self.model):
            save_state(self.model, self.optimizer, folder, writes=writes)
            if writes:
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULE)  # type: ignore[union-attr]
        else:
            super()._save_optimizer_and_scheduler(output_dir)
        if writes and not self.is_deepspeed_enabled:
            save_names(self.model, self.optimizer, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As in transformers; a model that was loaded from the checkpoint before it was split has all of it."""
        if not self._is_whole_checkpoint(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in transformers, by the names of the parameters, and for split weights from the whole state."""
        named = checkpoint is not None and not self.is_deepspeed_enabled and (Path(checkpoint) / NAMES).exists()
        if checkpoint is None:
            return
        with states_named(checkpoint):
            if named or self._is_whole_checkpoint(checkpoint):
                load_state(self.model, self.optimizer, self.lr_scheduler, Path(checkpoint))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As in transformers; there is no public place for what to say where it cannot be read."""
        if checkpoint is not None:
            with states_named(checkpoint):
                super()._load_rng_state(checkpoint)

    def _is_whole_checkpoint(self, checkpoint: str) -> bool:
        """Whether whole tensors go into split weights; DeepSpeed's are not, nor were FSDP's in earlier releases."""
        splits = self.is_fsdp_enabled or getattr(self, "is_distributed_loading_by_transformers", False)
        return bool(splits) and (Path(checkpoint) / STATE).exists()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """As transformers', with an order by length that the seed decides; there is no public place to set one."""
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
