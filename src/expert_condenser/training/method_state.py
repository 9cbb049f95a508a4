"""`method_state.json`: what a method goes on with, read from a file that may be another one."""

from pathlib import Path
from typing import Any

from expert_condenser.errors import ExpertCondenserError, TrainingError
from expert_condenser.methods import Method


def restore_method(method: Method, content: Any, path: Path) -> None:
    """Give a method the state in the file `path`; raises `TrainingError` where that is none of its own."""
    try:
        if not isinstance(content, dict):
            raise TypeError(f"it is a {type(content).__name__}")
        method.load_state_dict(content)
    except ExpertCondenserError:
        raise
    # A method of somebody's own raises what it likes on values that it did not write.
    except Exception as error:
        raise TrainingError(
            f"{path} is the state of {method.name}; this one is damaged ({error!r}): restore it, or start anew"
        ) from error
