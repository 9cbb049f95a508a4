"""Writes the log of a run while it trains, and closes every checkpoint once it is whole."""

import json
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import TrainerCallback

from expert_condenser.files import append_line, write_manifest
from expert_condenser.training.record import METRICS


class RunRecorder(TrainerCallback):
    """Writes the log of every logged step to `metrics.jsonl`, and closes every checkpoint."""

    def __init__(self, run_dir: Path, phase: str) -> None:
        self.path = run_dir / METRICS
        self.phase = phase

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """On a resume, drop what was logged after the checkpoint."""
        if state.is_world_process_zero and self.path.exists():
            entries = [json.loads(line) for line in self.path.read_text().splitlines()]
            kept = [e for e in entries if e["phase"] != self.phase or e["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append one line."""
        if state.is_world_process_zero:
            append_line(self.path, {"phase": self.phase, **state.log_history[-1]})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the checkpoint once every process has written its part."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            write_manifest(Path(args.output_dir) / f"checkpoint-{state.global_step}")
