"""How a model family turns router logits into choices and gate weights; the method leaves all of this as it is.

Pure functions on tensors. Shape letters: `T` tokens, `E` routed experts, `S` slots (columns) of the result;
`C` and `W` are E and S, with the columns of shared experts where a family weighs these too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expert_condenser.functional.sparse_mixer import sparse_mixer_weights


@dataclass(frozen=True)
class Scoring:
    """One family's formula. The defaults are `softmax` over all experts, weights as they are."""

    function: Literal["softmax", "sigmoid", "sqrtsoftplus", "topk_softmax", "topk_sigmoid", "sparse_mixer"] = "softmax"
    """A score per expert; with `topk_` experts are chosen by their logits, and only those chosen are scored.

    `sparse_mixer` also chooses by logits, see `expert_condenser.functional.sparse_mixer`.
    """
    by_logits: bool = False
    """Choose by logits although every expert gets a score."""
    jitter: float = 0.0
    """How near to the largest logit an expert is part of SparseMixer's softmax (`router_jitter_noise`)."""
    float32: bool | None = True
    """Whether scores are computed in float32 or in the dtype of the logits; None leaves it to torch (autocast)."""
    normalize: bool = False
    """Divide the chosen scores by their sum (`norm_topk_prob`)."""
    norm_order: float | None = None
    """Divide them by their norm of this order instead (DBRX); the sum is that of order 1."""
    in_logs: bool = False
    """Whether that quotient is computed as `exp(log s - log sum s)`, of sigmoid scores."""
    num_shared: int = 0
    """Shared experts that are weighed together with the chosen: their logits follow those of the E routed experts."""
    sum_epsilon: float = 0.0
    """What the family adds to that sum."""
    sum_minimum: float = 0.0
    """What the family raises that sum to, at least."""
    scale: float = 1.0
    """Multiply the weights at the end (`routed_scaling_factor`)."""
    num_groups: int = 1
    """Groups of neighbouring experts in group-limited routing (`n_group`)."""
    groups_kept: int = 1
    """Groups a token may choose from (`topk_group`)."""
    group_rank: Literal["best", "best_two"] = "best"
    """A group is ranked by its best expert, or by the sum of its two best."""
    sorted_slots: bool = True
    """Whether the family asks `torch.topk` for sorted columns; it decides their order, nothing else."""
    takes_twice: bool = True
    """Whether the family can give one expert two slots of a token (`duplicates`)."""
    weights_in_float32: bool = False
    """Weights stay in the dtype that they get (float32 if scores are) instead of being cast to that of the logits."""

    @property
    def chooses_by_logits(self) -> bool:
        """Whether experts are ranked by their logits rather than by a score."""
        return self.by_logits or self.function in ("topk_softmax", "topk_sigmoid", "sparse_mixer")


SOFTMAX = Scoring()


def routed_logits(logits: Float[Tensor, "T _"], scoring: Scoring) -> Float[Tensor, "T E"]:
    """The logits of the experts that are chosen from, without those of shared experts."""
    return logits[..., : -scoring.num_shared] if scoring.num_shared else logits


def expert_scores(logits: Float[Tensor, "T E"], scoring: Scoring = SOFTMAX) -> Float[Tensor, "T E"]:
    """`s`, a score per expert; where only chosen experts are scored, their scores before that choice."""
    if scoring.function in ("softmax", "topk_softmax", "sparse_mixer"):
        dtype = {True: torch.float32, False: logits.dtype, None: None}[scoring.float32]
        return torch.softmax(logits, dim=-1, dtype=dtype)
    logits = logits.float() if scoring.float32 else logits
    if scoring.function == "sqrtsoftplus":
        return torch.nn.functional.softplus(logits).sqrt()
    return torch.sigmoid(logits)


def native_ranks(
    logits: Float[Tensor, "T E"], scoring: Scoring, correction: Float[Tensor, " E"] | None = None
) -> Float[Tensor, "T E"]:
    """What the family itself chooses by: scores or logits, plus its own correction bias where it has one."""
    return _ranks_as_they_are(logits, scoring, correction).float()


def native_dtype(logits: Float[Tensor, "T E"], scoring: Scoring, correction: Tensor | None = None) -> torch.dtype:
    """The dtype in which the family ranks, and adds ranks up; autocast has a say in it."""
    return _ranks_as_they_are(logits[:0], scoring, correction).dtype


def _ranks_as_they_are(logits: Tensor, scoring: Scoring, correction: Tensor | None) -> Tensor:
    ranks = logits if scoring.chooses_by_logits else expert_scores(logits, scoring)
    return ranks if correction is None else ranks + correction


def group_mask(
    ranks: Float[Tensor, "T E"], scoring: Scoring, dtype: torch.dtype = torch.float32
) -> Bool[Tensor, "T E"]:
    """True for the experts of the `groups_kept` best groups; an expert of rank -infinity lifts no group.

    The sum of a group's two best is rounded to `dtype`.
    """
    num_tokens, num_experts = ranks.shape
    group_size = num_experts // scoring.num_groups
    groups = ranks.view(num_tokens, scoring.num_groups, group_size)
    if scoring.group_rank == "best":
        rank = groups.amax(dim=-1)
    else:
        two = groups.topk(2, dim=-1).values
        rank = two.masked_fill(two == -torch.inf, 0.0).sum(dim=-1).to(dtype)
        rank = rank.masked_fill((two == -torch.inf).all(dim=-1), -torch.inf)
    kept = torch.topk(rank, scoring.groups_kept, dim=-1, sorted=False).indices
    mask = torch.zeros_like(rank, dtype=torch.bool).scatter_(1, kept, True)
    return mask.repeat_interleave(group_size, dim=-1)


def gate_weights(
    logits: Float[Tensor, "T C"], indices: Int[Tensor, "T S"], scoring: Scoring = SOFTMAX
) -> Float[Tensor, "T W"]:
    """The weights of the chosen experts, after the family's own post-processing over all of them.

    Where shared experts are weighed together with them, logits and weights of these follow: `(T, E + N)`, `(T, S + N)`.
    """
    indices = _with_shared(indices, logits, scoring)
    if scoring.function == "sparse_mixer":
        weights = sparse_mixer_weights(logits, indices, scoring.jitter)
    elif scoring.function in ("topk_softmax", "topk_sigmoid"):
        weights = expert_scores(logits.gather(-1, indices), scoring)
    else:
        weights = expert_scores(logits, scoring).gather(-1, indices)
    if scoring.in_logs:
        logs = torch.nn.functional.logsigmoid(logits.gather(-1, indices))
        weights = torch.exp(logs - torch.logsumexp(logs, dim=-1, keepdim=True))
    elif scoring.normalize:
        quotient = weights / _normalizer(weights, scoring)  # under autocast, sums are float32
        weights = quotient if scoring.weights_in_float32 else quotient.to(weights.dtype)
    if scoring.scale != 1.0:
        weights = weights * scoring.scale
    return weights if scoring.weights_in_float32 else weights.to(logits.dtype)


def mixture_weights(
    logits: Float[Tensor, "T C"], indices: Int[Tensor, "T S"], scoring: Scoring = SOFTMAX
) -> Float[Tensor, "T C"]:
    """`q`, the weight of every expert as if it were among the chosen (DenseMixer, section 6 of docs/method.md).

    At the chosen experts these are `gate_weights`, with their gradient; elsewhere `s_i * scale`, divided by
    the constant sum over the chosen where the family normalises. Softmax over the chosen logits is softmax
    over all, normalised. Weights of shared experts follow, which are always among the chosen.
    """
    chosen = gate_weights(logits, indices, scoring)
    indices = _with_shared(indices, logits, scoring)
    scores = expert_scores(logits, scoring)
    if scoring.normalize or scoring.function == "topk_softmax":
        scores = scores / _normalizer(scores.detach().gather(-1, indices), scoring)
    scores = (scores * scoring.scale).to(chosen.dtype)
    return scores.scatter(-1, indices, chosen)


def _with_shared(indices: Tensor, logits: Tensor, scoring: Scoring) -> Tensor:
    """The chosen experts, then the shared ones, as columns of `logits`."""
    if not scoring.num_shared:
        return indices
    columns = torch.arange(logits.shape[-1] - scoring.num_shared, logits.shape[-1], device=indices.device)
    return torch.cat([indices, columns.expand(len(indices), -1)], dim=-1)


def multiply_gain(
    weights: Float[Tensor, "T W"], indices: Int[Tensor, "T S"], gain: Float[Tensor, " G"]
) -> Float[Tensor, "T W"]:
    """Weights times a factor that the family learns, one per expert (`G = E`) or one for all (`G = 1`)."""
    return weights * (gain if len(gain) == 1 else gain[indices])


def _normalizer(chosen: Float[Tensor, "T W"], scoring: Scoring) -> Float[Tensor, "T 1"]:
    if scoring.norm_order is not None:
        return torch.norm(chosen, p=scoring.norm_order, dim=-1, keepdim=True)  # as the family: rounding counts
    total = chosen.sum(dim=-1, keepdim=True)
    if scoring.sum_epsilon:
        total = total + scoring.sum_epsilon
    return torch.clamp(total, min=scoring.sum_minimum) if scoring.sum_minimum else total
