"""A process of a run that ended or hangs: the others say so and end, where torch has only words of sockets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed

from expert_condenser.errors import ExpertCondenserError, FailedRunError

_WORDS = r"gloo/|Connection (closed|reset) by peer|Connection refused|Broken pipe|Timed out waiting|NCCL"
"""What gloo says in a plain `RuntimeError`."""


@contextmanager
def lost_process_named(timeout: int) -> Iterator[None]:
    """Raise `FailedRunError` in place of what torch raises when another process of a run is gone.

    One that ended is noticed at once by gloo, and by NCCL or where it hangs after `timeout` seconds (`ddp_timeout`). An
    error of ours that comes from such a one, and blames options or a checkpoint, is one too.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        # Transformers does not pass ddp_timeout on with `use_cpu`, and nothing public sets it later.
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout))
    try:
        yield
    except (RuntimeError, ExpertCondenserError) as error:
        cause = _cause(error)
        if cause is None:
            raise
        raise FailedRunError(
            f"every process of a run takes part in every step, and another one ended, or did not answer for {timeout} "
            f"s (ddp_timeout): {str(cause).strip()[:300]}. Its own output says why. The last checkpoint is kept: go on "
            "with --resume."
        ) from error


def _cause(error: BaseException | None) -> RuntimeError | None:
    """What torch said of a lost process, in this error or in those that it was raised from."""
    while error is not None:
        if isinstance(error, RuntimeError) and (
            isinstance(error, torch.distributed.DistError) or re.search(_WORDS, str(error))
        ):
            return error
        error = error.__cause__
    return None
