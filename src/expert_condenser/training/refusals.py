"""What transformers, TRL or torch refuse in a recipe's options, as an error of ours with their words."""

from collections.abc import Iterator
from contextlib import contextmanager

from expert_condenser.errors import ExpertCondenserError, TrainingError

_REFUSALS = (ImportError, KeyError, RuntimeError, TypeError, ValueError)


@contextmanager
def refusals_named() -> Iterator[None]:
    """Raise `TrainingError` in place of what a library raises on options: only where nothing else can go wrong."""
    try:
        yield
    except _REFUSALS as error:
        if isinstance(error, ExpertCondenserError):
            raise
        reason = " ".join(str(error).split())
        raise TrainingError(f"the options must be ones that the Trainer accepts, and it says: {reason}") from error
