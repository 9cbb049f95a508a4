"""What there is to know of a router class: how it computes, and how it hands its choice on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.handover import TUPLE, Handover


def _own_sizes(router: Any) -> tuple[int, int]:
    own = vars(router)  # as the family set them: a router with a policy has a property of the first name
    return own["num_experts"], own["top_k"]


@dataclass(frozen=True)
class Rule:
    """How a router class computes; `router` is an instance of it."""

    description: str
    logits: Callable[[Any, Tensor], Tensor]
    """`(router, hidden) -> (T, E)`, in the dtype that the family computes them in."""
    scoring: Callable[[Any], Scoring]
    correction: Callable[..., Tensor | None] | None = None
    """The family's own bias on the scores, `(router, what else the block passes) -> (E,)`, where it has one."""
    weights_like_hidden: bool = False
    """Whether weights come back in the dtype of the hidden states rather than that of the logits."""
    sizes: Callable[[Any], tuple[int, int]] = _own_sizes
    """The numbers of experts to choose from and per token, `router -> (E, K)`."""
    num_identity: Callable[[Any], int] = lambda router: 0
    """How many of the E experts, the last ones, are the identity: chosen and counted, but without weights."""
    fixed_top_k: int | None = None
    """K, where the family's router has it built in and does not go by its config."""
    sparse_gradient_only: str | None = None
    """Why DenseMixer does not apply: its gradient is that of a sum of outputs, weighed by scores."""
    gain: Callable[[Any], Tensor] | None = None
    """The family's own learnt factor on the weights, `router -> (E,)` or `(1,)`, where it has one."""
    returned: Callable[[Tensor], Tensor] | None = None
    """What the router returns in the place of logits, made from them; None: the logits."""
    handover: Handover = TUPLE
    """How the router hands its choice to the block around it."""
    stacked_experts: bool = False
    """Whether the experts' weights are stacked in matrices, `(E * F, D)` instead of `(E, F, D)`."""
