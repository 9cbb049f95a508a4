"""Writes the log of a run while it trains, closes every checkpoint once it is whole, and keeps the time."""

import time
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import TrainerCallback

from expert_condenser.checkpoint.guard import keep_newest
from expert_condenser.files import append_line, read_json, write_json, write_manifest
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.log import rewind
from expert_condenser.training.record import METRICS

CLOCK = "clock.json"


class RunRecorder(TrainerCallback):
    """Writes the log of every logged step to `metrics.jsonl`, and closes every checkpoint."""

    def __init__(self, folder: RunFolder, phase: str, checkpoint: Path | None = None) -> None:
        self.folder, self.path, self.phase = folder, folder.path / METRICS, phase
        clock = None if checkpoint is None else checkpoint / CLOCK
        # Checkpoints of release 0.1 do not say how long they took.
        self._before = float(read_json(clock)["seconds"]) if clock is not None and clock.exists() else 0.0
        self._start = time.monotonic()

    def seconds(self) -> float:
        """How long the phase has trained, in all processes that went on with it; steps that were lost do not count."""
        return self._before + time.monotonic() - self._start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On a resume, drop what was logged after the checkpoint."""
        if state.is_world_process_zero:
            rewind(self.path, self.phase, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the first step, a run that this one replaces is not needed any more."""
        self.folder.settle()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append one line."""
        if state.is_world_process_zero:
            append_line(self.path, {"phase": self.phase, **state.log_history[-1]})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the checkpoint once every process has written its part; only then may an older one go."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(checkpoint / CLOCK, {"seconds": round(self.seconds(), 1)})
            write_manifest(checkpoint)
            keep_newest(checkpoint.parent, self.folder.recipe.trainer.save_total_limit)
