"""SparseMixer (arXiv 2310.00811) without its sampling: Phi-MoE's routers outside of training.

Experts are taken one by one. The weight of each is a softmax over the experts that are left and whose logits are near
the largest of these. Shape letters: `T` tokens, `E` experts, `S` slots.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def largest_one_by_one(ranks: Float[Tensor, "T E"], count: int) -> Int[Tensor, "T {count}"]:
    """The experts of the largest ranks, best first, the lower index first where ranks are equal."""
    chosen: list[Tensor] = []
    for _ in range(count):
        best = ranks.max(dim=-1, keepdim=True).indices
        ranks = ranks.scatter(-1, best, -torch.inf)
        chosen.append(best)
    return torch.cat(chosen, dim=-1)


def sparse_mixer_weights(
    logits: Float[Tensor, "T E"], indices: Int[Tensor, "T S"], jitter: float
) -> Float[Tensor, "T S"]:
    """The weight of every chosen expert `i`, by descending logit, equal ones in the order of their slots:

        softmax of z_i over  {j left : (max - z_j) / max(|z_j|, max) <= 2 jitter}  and i itself,  max = max of z_j left

    `left` are all experts but those chosen of larger logits. The family's own choice is always near the largest; an
    expert that is chosen for another reason, as a condenser is, stays in the softmax (docs/method.md, section 9).
    """
    order = logits.gather(-1, indices).argsort(dim=-1, descending=True, stable=True)
    left, weights = logits, []
    for slot in order.unbind(dim=-1):
        chosen = indices.gather(-1, slot[:, None])
        weights.append(torch.softmax(left.masked_fill(_far(logits, left, chosen, jitter), -torch.inf), dim=-1))
        weights[-1] = weights[-1].gather(-1, chosen)
        left = left.scatter(-1, chosen, -torch.inf)
    return torch.cat(weights, dim=-1).gather(-1, order.argsort(dim=-1))


@torch.no_grad()
def _far(logits: Tensor, left: Tensor, chosen: Tensor, jitter: float) -> Tensor:
    """Which experts the softmax leaves out; what is not left has no part in it anyway."""
    largest = left.max(dim=-1, keepdim=True).values
    distance = (largest - logits) / logits.abs().clamp(min=largest)
    return (distance > 2 * jitter).scatter(-1, chosen, False)
