"""Every process of a training has the same bias: each moves its own by counts that are summed over all of them."""

import torch
import torch.distributed
from torch import Tensor

from expert_condenser.errors import FailedRunError
from expert_condenser.moe.attachment import Attachment


def check_agreement(attachment: Attachment, step: int) -> None:
    """Raise `FailedRunError`, in every process, where the bias or the condensers of a layer are not the same in all.

    One all-reduce of all biases; nothing in a single process, and without a policy.
    """
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if attachment.policy is None or alone:
        return
    state = torch.stack([_state(router) for router in attachment.routers])
    both = torch.stack([state, -state])
    torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
    differing = (both[0] != -both[1]).any(dim=-1).nonzero().flatten().tolist()
    if differing:
        raise FailedRunError(
            f"every process has the same selection bias and condensers; at step {step} they differ in the MoE layers "
            f"{differing[:4]} of {len(attachment.routers)}. The last checkpoint is kept: --resume goes on from it."
        )


def _state(router: object) -> Tensor:
    """The bias `(E,)`, then the places of the experts among the condensers, -1 for none; exact in float32."""
    bias: Tensor = router.selection_bias.detach()  # type: ignore[attr-defined]
    ids: Tensor = router.condenser_ids.to(bias.device)  # type: ignore[attr-defined]
    places = torch.full_like(bias, -1)
    places[ids] = torch.arange(len(ids), dtype=bias.dtype, device=bias.device)
    return torch.cat([bias, places])
