"""What the main process alone can decide, and every process has to learn; and how all of them end."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from expert_condenser.errors import FolderError


def on_main_process(trainer: Any, action: Callable[[], None]) -> None:
    """Do it on the main process of a run; where it raises an error there, every process raises one."""
    refused: Exception | None = None
    if trainer.process_index == 0:
        try:
            action()
        except Exception as error:  # whatever it is: the others wait for word
            refused = error
    if trainer.world_size > 1:
        message = [None if refused is None else str(refused)]
        broadcast_object_list(message)
        if refused is None and message[0] is not None:
            raise FolderError(f"the main process refused: {message[0]}")
    if refused is not None:
        raise refused


def end_together(trainer: Any) -> None:
    """The last thing that the processes of a run do: none of them goes while another still needs it.

    One that goes first closes its sockets under a thread of gloo in the others, which may abort them: a run whose
    result is whole would fail.
    """
    if trainer.world_size > 1:
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()
