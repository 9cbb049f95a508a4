"""Which experts a token gets, and with which weights (paper, section 3 and Eq. 2).

Pure functions on tensors; the bias and the condensers are arguments. Shape letters: `T` tokens,
`E` routed experts, `K` experts per token, `R` condensers, `S` slots (columns) of the result;
`C` and `W` as in `scoring`.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from expert_condenser.errors import RoutingError
from expert_condenser.functional.gate_mass import keep_mass, raise_to_floor
from expert_condenser.functional.routing_config import PAPER as PAPER
from expert_condenser.functional.routing_config import RoutingConfig as RoutingConfig
from expert_condenser.functional.scoring import (
    SOFTMAX,
    Scoring,
    expert_scores,
    gate_weights,
    group_mask,
    native_dtype,
    native_ranks,
    routed_logits,
)
from expert_condenser.functional.sparse_mixer import largest_one_by_one


def route(
    logits: Float[Tensor, "T C"],
    bias: Float[Tensor, " E"],
    condensers: Int[Tensor, " R"],
    *,
    top_k: int,
    scoring: Scoring = SOFTMAX,
    config: RoutingConfig = PAPER,
    correction: Float[Tensor, " E"] | None = None,
    indices: Int[Tensor, "T S"] | None = None,
) -> tuple[Float[Tensor, "T W"], Int[Tensor, "T S"]]:
    """Choose with the bias, weigh without it (preset `paper`; section 1 of docs/method.md).

        y(x) = sum_{i in routed} s_i E_i(x) + sum_{c in C} s_c E_c(x)

    Returns `(weights, indices)`; `S` is K under the shared budget and K + R under the additive one.
    No gradient flows through the choice. `correction` is the family's own bias, where it has one.
    `indices` given: that choice is weighed again instead of being made (the recomputation of gradient
    checkpointing).

    A bias of zero leaves every bit of the family's own routing as it is. One exception: where scores
    underflow to 0, stock group-limited routing takes experts of masked groups, with weight 0; here a
    token stays in its groups. Raises `RoutingError` where R does not fit (`check_condensers`).
    """
    check_condensers(len(condensers), logits.shape[-1] - scoring.num_shared, top_k, config, scoring)
    if indices is None:
        indices = choose_experts(
            logits.detach(), bias, condensers, top_k=top_k, scoring=scoring, config=config, correction=correction
        )
    if not config.bias_in_weights:
        weights = gate_weights(logits, indices, scoring)
        if config.keeps_mass and len(condensers):
            mass = own_mass(logits, top_k, scoring, correction)
            weights = _with_mass(weights, indices, condensers, mass, top_k, config)
        return weights, indices
    weights = gate_weights(logits.float() + bias, indices, scoring)
    return weights if scoring.weights_in_float32 else weights.to(logits.dtype), indices


def own_mass(
    logits: Float[Tensor, "T C"], top_k: int, scoring: Scoring = SOFTMAX, correction: Float[Tensor, " E"] | None = None
) -> Float[Tensor, "T 1"]:
    """`S_K`: the sum of the weights of the K experts that the family itself chooses, without bias or condensers."""
    logits, nobody = logits.detach(), torch.zeros(0, dtype=torch.int64, device=logits.device)
    bias = logits.new_zeros(logits.shape[-1] - scoring.num_shared, dtype=torch.float32)
    own = choose_experts(logits, bias, nobody, top_k=top_k, scoring=scoring, correction=correction)
    return gate_weights(logits, own, scoring)[..., :top_k].float().sum(dim=-1, keepdim=True)


def _with_mass(
    weights: Tensor, indices: Tensor, condensers: Tensor, mass: Tensor, top_k: int, config: RoutingConfig
) -> Tensor:
    """The weights of the chosen experts with the sum `mass`; those of shared experts, behind them, stay."""
    slots = indices.shape[-1]
    chosen, shared = weights[..., :slots], weights[..., slots:]
    if config.condenser_gate_floor is None:
        kept = keep_mass(chosen.float(), mass)
    else:
        least = config.condenser_gate_floor * mass / top_k
        kept = raise_to_floor(chosen.float(), torch.isin(indices, condensers), mass, least)
    return torch.cat([kept.to(weights.dtype), shared], dim=-1)


def check_condensers(
    num_condensers: int, num_experts: int, top_k: int, config: RoutingConfig, scoring: Scoring = SOFTMAX
) -> None:
    """Raise `RoutingError` unless R condensers leave every token enough experts to choose from.

    R <= K-1 under the shared budget and R < E; the slots that are chosen fit among the experts that are
    not condensers, in group-limited routing even if all condensers lie in the groups that were kept.
    """
    if config.duplicates and not scoring.takes_twice:
        raise RoutingError(
            "duplicates counts an expert twice, and this family takes every expert once: leave duplicates out, and "
            "preset 'reference', which sets it"
        )
    if config.budget == "shared" and num_condensers >= top_k == 1:
        raise RoutingError(
            f"with K = 1 expert per token a condenser would be the only one, and nothing would be chosen; got "
            f"R = {num_condensers}. Set budget='additive': K + R slots, the condensers besides the one chosen."
        )
    if config.budget == "shared" and num_condensers >= top_k:
        raise RoutingError(
            f"the shared budget of K = {top_k} experts per token needs R <= {top_k - 1} condensers, so that at least "
            f"one expert is still chosen; got R = {num_condensers}. Lower R or use budget='additive'."
        )
    if num_condensers >= num_experts:
        raise RoutingError(
            f"a layer of {num_experts} experts has at most {num_experts - 1} condensers; got {num_condensers}"
        )
    chosen = top_k - num_condensers if config.budget == "shared" else top_k
    excluded = 0 if config.duplicates or config.budget == "recycle" else num_condensers
    if config.condenser_groups == "native" and scoring.num_groups > 1 and num_condensers > scoring.groups_kept:
        raise RoutingError(
            f"condenser_groups='native' keeps the groups of all condensers, which may be {num_condensers}, and a token "
            f"keeps {scoring.groups_kept}. Lower R, or use condenser_groups='exempt'."
        )
    eligible = num_experts // scoring.num_groups * scoring.groups_kept - excluded
    if chosen > eligible:
        raise RoutingError(
            f"a token chooses {chosen} experts among those that are not condensers, and only {eligible} are sure to be "
            f"eligible ({num_experts} experts, {scoring.groups_kept} of {scoring.num_groups} groups, "
            f"R = {num_condensers}). Lower R."
        )


def choose_experts(
    logits: Float[Tensor, "T C"],
    bias: Float[Tensor, " E"],
    condensers: Int[Tensor, " R"],
    *,
    top_k: int,
    scoring: Scoring = SOFTMAX,
    config: RoutingConfig = PAPER,
    correction: Float[Tensor, " E"] | None = None,
) -> Int[Tensor, "T S"]:
    """The experts of every token, without gradient; under `recycle` as if there were no condensers.

    Shared budget: a condenser is an expert whose bias is +infinity, or, where the family has a correction bias, whose
    correction is `outweighing`, so that a stock checkpoint can say the same. Additive: the K largest among the
    other experts (among all experts with `duplicates`), then the R condensers in their order.
    """
    condensers = condensers[:0] if config.budget == "recycle" else condensers
    logits = routed_logits(logits, scoring)
    ranks = biased_ranks(logits, bias, scoring, config, correction)
    others = ranks.index_fill(-1, condensers, -torch.inf) if len(condensers) else ranks
    if scoring.num_groups > 1:
        dtype = native_dtype(logits, scoring, correction)
        of_groups = group_ranks(others, bias, scoring, config, correction)
        if config.condenser_groups == "native" and len(condensers):
            of_groups = of_groups.index_fill(-1, condensers, torch.inf)
        mask = kept_groups(of_groups, bias, scoring, dtype)
        ranks = ranks.masked_fill(~mask, -torch.inf)
        others = ranks.index_fill(-1, condensers, -torch.inf) if len(condensers) else ranks
    if config.budget == "shared":
        if len(condensers):
            first = torch.inf if correction is None else lifted_ranks(logits, others, scoring)
            is_condenser = torch.zeros_like(bias, dtype=torch.bool).index_fill(0, condensers, True)
            ranks = torch.where(is_condenser, first, ranks)
        return _largest(ranks, top_k, scoring)
    routed = _largest(ranks if config.duplicates else others, top_k, scoring)
    return torch.cat([routed, condensers.expand(len(routed), -1)], dim=-1)


def outweighing(scoring: Scoring) -> float:
    """The correction bias of a condenser: above every score or logit, and exact in half precision."""
    return 16384.0 if scoring.chooses_by_logits else 1024.0


def lifted_ranks(logits: Float[Tensor, "T E"], others: Float[Tensor, "T E"], scoring: Scoring) -> Float[Tensor, "T E"]:
    """The ranks of experts whose correction is `outweighing`: slots of condensers are in the order of their scores.

    Infinite where one of the `others` comes near it, which a bias without bounds may: condensers are always active.
    """
    above = outweighing(scoring)
    lifted = native_ranks(logits, scoring, torch.full_like(logits[0], above, dtype=torch.float32))
    return torch.where(others.amax() < above / 2, lifted, torch.inf)


def _largest(ranks: Tensor, count: int, scoring: Scoring) -> Tensor:
    if scoring.function == "sparse_mixer":
        return largest_one_by_one(ranks, count)
    return torch.topk(ranks, count, dim=-1, sorted=scoring.sorted_slots).indices


def biased_ranks(
    logits: Float[Tensor, "T E"],
    bias: Float[Tensor, " E"],
    scoring: Scoring,
    config: RoutingConfig = PAPER,
    correction: Float[Tensor, " E"] | None = None,
) -> Float[Tensor, "T E"]:
    """`rank_i = z_i + beta_i`, or `s_i + beta_i` in score space.

    A family with a `correction` b of its own stays in its space: `s_i + (b_i + beta_i)` (docs/method.md), in this
    order, since that is what the stock model computes whose correction is b + beta. While
    the bias is zero the ranks are the family's own, so that even ties fall as they do there.
    """
    if correction is not None:
        biased = native_ranks(logits, scoring, correction + bias)
        if correction.dtype == torch.float32:  # plus 0 it is itself; of a narrower one the sum would be wider
            return biased
        return torch.where((bias == 0).all(), native_ranks(logits, scoring, correction), biased)
    native = native_ranks(logits, scoring)
    biased = (native if config.bias_space == "score" else logits.float()) + bias
    return torch.where((bias == 0).all(), native, biased)


def group_ranks(
    ranks: Float[Tensor, "T E"],
    bias: Float[Tensor, " E"],
    scoring: Scoring,
    config: RoutingConfig = PAPER,
    correction: Float[Tensor, " E"] | None = None,
) -> Float[Tensor, "T E"]:
    """What ranks the groups: `ranks`, as scores where the sum of two is taken; logits do not add up."""
    if scoring.group_rank == "best" or _in_native_space(config, correction):
        return ranks
    return torch.where((bias == 0).all(), ranks, expert_scores(ranks, scoring))


def kept_groups(
    ranks: Float[Tensor, "T E"], bias: Float[Tensor, " E"], scoring: Scoring, dtype: torch.dtype
) -> Bool[Tensor, "T E"]:
    """The experts of the groups that a token chooses from, by `group_ranks`; `dtype` is that of the family's ranks.

    While the bias is zero, sums of two are rounded as the family rounds them: groups that tie there tie here. A bias
    is finer than half precision, and so are the sums with it.
    """
    mask = group_mask(ranks, scoring)
    if scoring.group_rank == "best" or dtype == torch.float32:
        return mask
    return torch.where((bias == 0).all(), group_mask(ranks, scoring, dtype), mask)


def _in_native_space(config: RoutingConfig, correction: Tensor | None) -> bool:
    return config.bias_space == "score" or correction is not None


def count_usage(
    indices: Int[Tensor, "T S"], num_experts: int, token_mask: Shaped[Tensor, " T"] | None = None
) -> Int[Tensor, " E"]:
    """`u_i` = slots of expert i over the tokens where `token_mask` is not 0 (all where it is None); int64."""
    real = torch.ones_like(indices) if token_mask is None else (token_mask != 0).long()[:, None].expand_as(indices)
    counts = torch.zeros(num_experts, dtype=torch.int64, device=indices.device)
    return counts.scatter_add_(0, indices.reshape(-1), real.reshape(-1))


def mass_usage(
    logits: Float[Tensor, "T C"],
    token_mask: Shaped[Tensor, " T"] | None = None,
    scoring: Scoring = SOFTMAX,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " E"]:
    """`u_i = sum_t p_ti` over the tokens where `token_mask` is not 0; summed in `dtype`.

    `p` is the softmax of the logits, or the family's scores divided by their sum. With `bias_in_weights`
    the caller passes `z + beta`, the logits that weigh.
    """
    probabilities = expert_scores(routed_logits(logits.detach(), scoring), scoring).to(dtype)
    if "softmax" not in scoring.function:
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    if token_mask is not None:
        probabilities = probabilities * (token_mask != 0)[:, None]
    return probabilities.sum(dim=0)
