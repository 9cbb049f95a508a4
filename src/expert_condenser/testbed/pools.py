"""Document pools: in pretraining, all tokens of a document choose among the same few experts (EMO, arXiv 2605.06663).

A document's pool is the P experts with the largest router probability, summed over its tokens; the others are masked
before the K best are chosen. So experts specialise by kind of document, without being told any. P is drawn for every
document. The model that results is a stock one, and is used without pools.

Two additions, since documents and budgets are small here (docs/testbed.md has what each does): a pool may be ranked by
the excess over the batch's mean probability, so that what all documents like does not decide; and a loss teaches the
routers to stay in the pool by themselves.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expert_condenser.functional.routing import count_usage
from expert_condenser.functional.scoring import Scoring, gate_weights
from expert_condenser.moe.layers import moe_layers


class Documents(NamedTuple):
    """Which document every token of a batch belongs to, and how many experts are in that document's pool."""

    of_token: Int[Tensor, " T"]
    pool_sizes: Int[Tensor, " N"]


def number_documents(rows: Sequence[Sequence[int]], sizes: tuple[int, int], rng: random.Random) -> Documents:
    """Documents of a batch of rows, each with its documents numbered from 0; P is uniform in `sizes`, both included."""
    of_token: list[int] = []
    count = 0
    for row in rows:
        of_token += [count + number for number in row]
        count += row[-1] + 1
    return Documents(torch.tensor(of_token), torch.tensor([rng.randint(*sizes) for _ in range(count)]))


def pools(affinity: Float[Tensor, "T E"], documents: Documents) -> Bool[Tensor, "N E"]:
    """The P experts of every document with the largest sum over its tokens, of probabilities or of their excess."""
    count, experts = len(documents.pool_sizes), affinity.shape[1]
    sums = torch.zeros(count, experts, dtype=affinity.dtype).index_add_(0, documents.of_token, affinity)
    places = sums.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return places < documents.pool_sizes[:, None]


def excess(probabilities: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """Every probability minus its expert's mean over the batch."""
    return probabilities - probabilities.mean(dim=0)


def choose_in_pools(logits: Float[Tensor, "T E"], pool: Bool[Tensor, "T E"], top_k: int) -> Int[Tensor, "T K"]:
    """The K best experts of every token among those of its pool, without gradient."""
    return logits.detach().masked_fill(~pool, -torch.inf).topk(top_k, dim=-1).indices


def outside_loss(logits: Float[Tensor, "T E"], pool: Bool[Tensor, "T E"]) -> Float[Tensor, ""]:
    """The mean of `-log sum_{i in pool} p_i` over tokens: 0 where a router needs no pool to stay in it."""
    return -torch.log_softmax(logits.float(), dim=-1).masked_fill(~pool, -torch.inf).logsumexp(dim=-1).mean()


def balance_loss(logits: Float[Tensor, "T E"], indices: Int[Tensor, "T K"]) -> Float[Tensor, ""]:
    """The load-balancing loss of one layer over all documents of the batch: `E sum_i f_i P_i`, K where all are equal.

    f_i is the share of the tokens that chose expert i, in its pool; P_i the mean of its probability over all experts.
    """
    share = count_usage(indices, logits.shape[1]) / len(logits)
    return logits.shape[1] * (share * torch.softmax(logits.float(), dim=-1).mean(dim=0)).sum()


class PooledRouting:
    """While it is entered, the routers of a model choose in pools; `documents` is set before every forward.

    Weights are the family's own over the chosen: of the softmax over all experts, renormalised where the family does.
    """

    documents: Documents

    def __init__(self, model: Any, *, by_excess: bool = False) -> None:
        self.layers, self.by_excess = moe_layers(model), by_excess
        self.balance: list[Tensor] = []
        self.outside: list[Tensor] = []
        """`balance_loss` and `outside_loss` of every layer in the last forward."""

    def __enter__(self) -> "PooledRouting":
        self._hooks = [
            layer.router.register_forward_hook(_Choice(self, layer.top_k, layer.scoring)) for layer in self.layers
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def start(self, documents: Documents) -> None:
        """Before a forward over these documents."""
        self.documents, self.balance, self.outside = documents, [], []


class _Choice(NamedTuple):
    """The forward hook of one router; it replaces the router's own choice."""

    routing: PooledRouting
    top_k: int
    scoring: Scoring

    def __call__(self, router: Any, args: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, documents = output[0], self.routing.documents
        probabilities = torch.softmax(logits.detach().float(), dim=-1)
        affinity = excess(probabilities) if self.routing.by_excess else probabilities
        pool = pools(affinity, documents)[documents.of_token]
        indices = choose_in_pools(logits, pool, self.top_k)
        self.routing.balance.append(balance_loss(logits, indices))
        self.routing.outside.append(outside_loss(logits, pool))
        return logits, gate_weights(logits, indices, self.scoring), indices
