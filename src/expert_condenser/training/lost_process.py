"""A process of a run that ended or hangs: the others say so and end, where torch has only words of sockets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed

from expert_condenser.errors import FailedRunError

_WORDS = r"gloo/|Connection (closed|reset) by peer|Connection refused|Broken pipe|Timed out waiting|NCCL"
"""What gloo says in a plain `RuntimeError`."""


@contextmanager
def lost_process_named(timeout: int) -> Iterator[None]:
    """Raise `FailedRunError` in place of what torch raises when another process of a run is gone.

    One that ended is noticed at once by gloo, and by NCCL or where it hangs after `timeout` seconds (`ddp_timeout`).
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        # Transformers does not pass ddp_timeout on with `use_cpu`, and nothing public sets it later.
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout))
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or re.search(_WORDS, str(error))):
            raise
        raise FailedRunError(
            f"every process of a run takes part in every step, and another one ended, or did not answer for {timeout} "
            f"s (ddp_timeout): {str(error).strip()[:300]}. Its own output says why. The last checkpoint is kept: go on "
            "with --resume."
        ) from error
