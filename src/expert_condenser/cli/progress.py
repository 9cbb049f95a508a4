"""The progress of a training on stderr: a bar with the time left, or where that is no terminal a line per log entry."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


class TrainingProgress(TrainerCallback):
    """Shows the steps of every phase, and the nll of the last log entry."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a bar, at the step that a resumed training goes on from."""
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=self.console)
        self.shown = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step more."""
        if self.bar is not None:
            self.bar.update(self.shown, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the nll of a logged step."""
        if not state.is_world_process_zero or not logs or "nll" not in logs:
            return
        if self.bar is not None:
            self.bar.update(self.shown, description=f"training, nll {logs['nll']:.3f}")
        else:
            self.console.print(f"step {state.global_step} of {state.max_steps}: nll {logs['nll']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
