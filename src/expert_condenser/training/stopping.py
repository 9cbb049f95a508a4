"""SIGTERM and SIGINT while a run trains: the step is finished and saved, and the process ends with 143 or 130.

Whichever process of a run gets the signal, all of them stop after the same step.
"""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 1.0
"""Seconds from which the same signal counts as asked again: terminals and launchers both send one of the same wish."""
logger = logging.getLogger(__name__)  # of the process that got the signal, whichever it is


class StopOnSignal(TrainerCallback):
    """`with stop:` turns a signal into a checkpoint after the step at hand; the same one again, later, ends at once.

    Behind all other callbacks, since it ends the training when they have seen the checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked = 0
        self._since = 0.0
        self._agreed = 0
        self._own: dict[int, Any] = {}
        """What handled the signals before."""

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():  # no other one can
            heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup, or `&`
            self._own = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for number, own in self._own.items():
            signal.signal(number, own)
        if error is None and (asked := self._agree()):  # after the last step: the phase is done
            _end(asked)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have the step saved, if any process was asked to stop."""
        self._agreed = self._agree()
        if self._agreed:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise `SystemExit` (143) or `KeyboardInterrupt` once that checkpoint is closed."""
        if self._agreed:
            _end(self._agreed)

    def _agree(self) -> int:
        """The signal that any process got, the same on all of them; 0 is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._asked  # of every step: one process alone need not wait for its device
        asked = torch.tensor(self._asked, device=self._device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return int(asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked == number and now - self._since > _AGAIN:
            _end(number)
        if not self._asked:
            self._since = now
            logger.warning(
                f"{signal.Signals(number).name}: the run saves after this step and stops; send it again to stop at once"
            )
        self._asked = max(number, self._asked)


def _end(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
