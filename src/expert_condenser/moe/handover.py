"""How a router hands its choice to the block around it, and how the choice is read back.

Nearly all return `(logits, weights, indices)`. Shape letters: `T` tokens, `E` experts, `S` slots.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Choice(NamedTuple):
    """What a router chose in one forward."""

    returned: Float[Tensor, "T E"]
    """The logits, or what the family returns in their place."""
    weights: Float[Tensor, "T S"]
    indices: Int[Tensor, "T S"]
    shared: tuple[Tensor, ...] = ()
    """The weights of shared experts, `(T, N)`, where the router weighs these too."""


@dataclass(frozen=True)
class Handover:
    """Of one kind of router."""

    read: Callable[[Any, Any, Tensor], Choice]
    """`(router, what its own forward returned, what that got)`."""
    give: Callable[[Choice], Any]
    """What the block expects."""
    in_block: bool = False
    """Whether the block itself chooses, in `route_tokens_to_experts`; its `router` returns logits only."""


def _read_tuple(router: Any, output: Any, argument: Tensor) -> Choice:
    returned, weights, indices, *shared = output
    return Choice(returned, weights, indices, tuple(shared))


def _give_tuple(choice: Choice) -> tuple[Tensor, ...]:
    return choice.returned, choice.weights, choice.indices, *choice.shared


def _read_scores(router: Any, output: Any, argument: Tensor) -> Choice:
    scores, logits = output
    indices = torch.topk(logits, router.top_k, dim=-1).indices  # as the family chose: a score may round to zero
    return Choice(logits, scores.gather(-1, indices), indices)


def _give_scores(choice: Choice) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros_like(choice.returned, dtype=choice.weights.dtype)
    return zeros.scatter(-1, choice.indices, choice.weights), choice.returned


def _read_pair(block: Any, output: Any, logits: Tensor) -> Choice:
    weights, indices = output
    return Choice(logits, weights, indices)


def _give_pair(choice: Choice) -> tuple[Tensor, Tensor]:
    return choice.weights, choice.indices


TUPLE = Handover(_read_tuple, _give_tuple)
SCORES = Handover(_read_scores, _give_scores)
"""Llama 4: scores of all experts `(T, E)`, 0 for those not chosen, and the logits."""
BLOCK = Handover(_read_pair, _give_pair, in_block=True)
"""DBRX: the block asks itself, with the logits of its router."""
