"""What expert parallelism sends: rows of tokens to the processes that hold their experts, and back.

Of `P` processes each holds `E / P` experts, and routes its own tokens. A token's row goes to every expert that it
chose and that another process holds, and the expert's output comes back; the backward pass does both once more.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from expert_condenser.errors import RoutingError

PASSES = 4
"""How often a row of a pair travels: to the expert and back, in the forward and in the backward pass."""


def pairs_elsewhere(counts: Int[Tensor, "P E"], replicated: Bool[Tensor, " E"] | None = None) -> Int[Tensor, "P P"]:
    """How many token-expert pairs process `p` sends to process `q`, with zeros where they are the same.

    `counts[p, e]` are the tokens of process `p` that chose expert `e`; `replicated` experts are held by every
    process. Raises `RoutingError` where the processes cannot share the experts equally.
    """
    processes, experts = counts.shape
    if experts % processes:
        raise RoutingError(f"every process holds equally many experts; {processes} cannot share {experts} of them")
    sent = counts if replicated is None else counts.masked_fill(replicated, 0)
    pairs = sent.view(processes, processes, experts // processes).sum(dim=-1)
    return pairs.masked_fill(torch.eye(processes, dtype=torch.bool, device=pairs.device), 0)


def bytes_sent(pairs: int, hidden_size: int, itemsize: int, passes: int = PASSES) -> int:
    """Bytes that pairs take: a row of `hidden_size` numbers of `itemsize` bytes each, in every pass."""
    return pairs * hidden_size * itemsize * passes


def expected_bytes_per_token(
    top_k: int, condensers: int, processes: int, hidden_size: int, itemsize: int, *, replicated: bool = True
) -> float:
    """Mean bytes that a token sends in one MoE layer, where its experts lie on all processes alike.

    With `R` condensers in every token's `K` experts, replicated ones cut it from `K (P-1)/P` rows to `(K-R) (P-1)/P`.
    """
    rows = (top_k - condensers if replicated else top_k) * (processes - 1) / processes
    return rows * hidden_size * itemsize * PASSES
