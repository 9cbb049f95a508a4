"""The formulas of transformers' routers: each is shared by all families whose router computes it.

Nothing here is guessed: the suite compares every family's rule with the family's own router, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe import handover, projections
from expert_condenser.moe.rule import Rule

# --- native corrections ---


def _own_correction(router: Any) -> Tensor:
    return router.e_score_correction_bias


def _passed_correction(router: Any, correction: Tensor | None = None) -> Tensor | None:
    return correction


def _moe_statics(router: Any) -> Tensor:
    return router.moe_statics.e_score_correction_bias.squeeze()


# --- scoring ---


def _constant(**options: Any) -> Callable[[Any], Scoring]:
    scoring = Scoring(**options)
    return lambda router: scoring


def _deepseek_v2(router: Any) -> Scoring:
    limited = router.topk_method == "group_limited_greedy"
    return Scoring(
        scale=router.routed_scaling_factor,
        num_groups=router.num_group if limited else 1,
        groups_kept=router.topk_group if limited else 1,
        sorted_slots=False,
        weights_in_float32=True,
    )


def _grouped(function: str, **options: Any) -> Callable[[Any], Scoring]:
    """The scheme of DeepSeek-V3: groups by their two best, the sum raised by 1e-20, a factor at the end."""

    def scoring(router: Any) -> Scoring:
        defaults = {
            "normalize": getattr(router, "norm_topk_prob", True),
            "sum_epsilon": 1e-20,
            "scale": getattr(router, "routed_scaling_factor", 1.0),
            "num_groups": router.num_group or 1,
            "groups_kept": router.topk_group or 1,
            "group_rank": "best_two",
            "sorted_slots": False,
            "float32": False,
        }
        return Scoring(**{"function": function, **defaults, **options})

    return scoring


_softmax_grouped = _grouped("softmax", float32=None, weights_in_float32=True)


def _lfm2(router: Any) -> Scoring:
    return Scoring(
        function="sigmoid",
        float32=False,
        normalize=router.norm_topk_prob,
        sum_epsilon=1e-6,
        scale=router.routed_scaling_factor,
        weights_in_float32=True,
    )


def _scaled_sigmoid(scale: str, epsilon: float = 1e-20, **options: Any) -> Callable[[Any], Scoring]:
    def scoring(router: Any) -> Scoring:
        defaults = {
            "function": "sigmoid",
            "float32": False,
            "normalize": True,
            "sum_epsilon": epsilon,
            "scale": getattr(router, scale),
            "sorted_slots": False,
            "weights_in_float32": True,
        }
        return Scoring(**{**defaults, **options})

    return scoring


def _sparse_mixer(router: Any) -> Scoring:
    return Scoring(
        function="sparse_mixer", jitter=router.router_jitter_noise, weights_in_float32=True, takes_twice=False
    )


def _scored_by(router: Any) -> Scoring:
    """DeepSeek-V4 names its score function in the config."""
    function = {"Sigmoid": "sigmoid", "SqrtSoftplus": "sqrtsoftplus"}
    name = next(value for key, value in function.items() if key in type(router.score_fn).__name__)
    return _scaled_sigmoid("routed_scaling_factor", function=name)(router)


def _cohere2(router: Any) -> Scoring:
    sigmoid = router.expert_selection_fn == "sigmoid"
    return Scoring(
        function="topk_sigmoid" if sigmoid else "topk_softmax",
        float32=not sigmoid,
        normalize=sigmoid and router.norm_topk_prob,
        weights_in_float32=True,
    )


def _dbrx(block: Any) -> Scoring:
    order = block.moe_normalize_expert_weights
    return Scoring(float32=False, normalize=order is not None, norm_order=order, weights_in_float32=True)


# --- the rules ---

SOFTMAX = Rule(
    "softmax, renormalised if norm_topk_prob", projections.plain, lambda r: Scoring(normalize=r.norm_topk_prob)
)
SOFTMAX_PLAIN = Rule("softmax", projections.plain, _constant(weights_in_float32=True), weights_like_hidden=True)
SOFTMAX_NORMALIZED = Rule("softmax, renormalised", projections.plain, _constant(normalize=True))
SOFTMAX_HUNYUAN = Rule("softmax, renormalised", projections.hunyuan, _constant(normalize=True))
SOFTMAX_FLOAT32 = Rule(
    "softmax, renormalised, float32 weights", projections.plain, _constant(normalize=True, weights_in_float32=True)
)
SOFTMAX_PER_EXPERT = Rule(
    "softmax, renormalised, times a learnt factor per expert",
    projections.gemma4,
    _constant(normalize=True, weights_in_float32=True),
    sizes=lambda router: (router.config.num_experts, router.config.top_k_experts),
    gain=lambda router: router.per_expert_scale,
    returned=lambda logits: torch.softmax(logits, dim=-1, dtype=torch.float32),
)
SOFTMAX_NORM = Rule(
    "softmax, divided by a norm of the chosen, in the block",
    projections.none,
    _dbrx,
    sizes=lambda block: (block.experts.num_experts, vars(block)["top_k"]),
    handover=handover.BLOCK,
    stacked_experts=True,
)
SOFTMAX_LIMITED = Rule("softmax, group-limited by the best of a group, scaled", projections.in_float32, _deepseek_v2)
SOFTMAX_GROUPED = Rule("softmax, group-limited by the two best of a group", projections.plain, _softmax_grouped)
SOFTMAX_GROUPED_FLOAT32 = Rule(
    "softmax, group-limited by the two best of a group", projections.in_float32, _softmax_grouped
)
SOFTMAX_CORRECTED = Rule(
    "softmax with native correction bias, renormalised",
    projections.without_autocast,
    lambda router: Scoring(normalize=True, sum_minimum=router.norm_min),
    _moe_statics,
    weights_like_hidden=True,
)
SOFTMAX_IDENTITY = Rule(
    "softmax with native correction bias, scaled; the last experts are the identity",
    projections.longcat,
    lambda router: Scoring(float32=None, scale=router.routed_scaling_factor, sorted_slots=False),
    _own_correction,
    sizes=lambda router: (router.n_routed_experts, vars(router)["top_k"]),
    num_identity=lambda router: router.n_routed_experts - vars(router)["num_experts"],
)
TOPK_SOFTMAX = Rule(
    "softmax over the chosen logits",
    projections.plain,
    _constant(function="topk_softmax", float32=None, weights_in_float32=True),
)
TOPK_SOFTMAX_BIASED = Rule(
    "softmax over the chosen logits; linear with bias",
    projections.with_bias,
    _constant(function="topk_softmax", float32=False),
)
TOPK_SOFTMAX_FLOAT32 = Rule(
    "softmax over the chosen logits, in float32",
    projections.to_float32,
    _constant(function="topk_softmax"),
    weights_like_hidden=True,
)
TOPK_EITHER = Rule(
    "softmax over the chosen logits, or sigmoid of them", projections.plain, _cohere2, weights_like_hidden=True
)
TOPK_SIGMOID_CORRECTED = Rule(
    "logits with native correction bias, sigmoid of the chosen",
    projections.kolibri,
    lambda router: Scoring(
        function="topk_sigmoid", float32=False, normalize=router.norm_topk_prob, weights_in_float32=True
    ),
    _own_correction,
)
SIGMOID_OF_INPUT = Rule(
    "logits choose, sigmoid weighs the input of the expert",
    projections.plain,
    _constant(function="sigmoid", by_logits=True, takes_twice=False),
    sparse_gradient_only="it weighs the input of an expert, so that the output is no sum weighed by scores",
    handover=handover.SCORES,
)
SPARSE_MIXER = Rule(
    "SparseMixer: each expert a softmax over those near the largest logit left",
    projections.phimoe,
    _sparse_mixer,
    sizes=lambda router: (vars(router)["num_experts"], 2),
    fixed_top_k=2,
    sparse_gradient_only="SparseMixer has a gradient of its own for the router, and no weight for an expert not chosen",
)
SIGMOID = Rule(
    "sigmoid, renormalised if norm_topk_prob",
    projections.without_autocast,
    lambda router: Scoring(function="sigmoid", normalize=router.norm_topk_prob),
)
SIGMOID_GROUPED = Rule(
    "sigmoid with native correction bias, group-limited by the two best of a group, scaled",
    projections.in_float32,
    _grouped("sigmoid"),
    _own_correction,
)
SIGMOID_GROUPED_SORTED = Rule(
    SIGMOID_GROUPED.description, projections.in_float32, _grouped("sigmoid", sorted_slots=True), _own_correction
)
SIGMOID_CORRECTED = Rule(
    "sigmoid with native correction bias, renormalised, float32 weights",
    projections.like_weight,
    _constant(function="sigmoid", normalize=True, weights_in_float32=True, sorted_slots=False),
    _own_correction,
)
SIGMOID_CORRECTED_BY_BLOCK = Rule(
    SIGMOID_CORRECTED.description, projections.like_weight, SIGMOID_CORRECTED.scoring, _passed_correction
)
SIGMOID_SCALED_BY_BLOCK = Rule(
    "sigmoid with native correction bias, renormalised, scaled",
    projections.in_float32,
    _scaled_sigmoid("router_scaling_factor"),
    _passed_correction,
)
SIGMOID_AFMOE = Rule(
    SIGMOID_SCALED_BY_BLOCK.description,
    projections.afmoe,
    _scaled_sigmoid("route_scale", sorted_slots=True),
    _passed_correction,
)
SIGMOID_LFM2 = Rule(
    "sigmoid with native correction bias if use_expert_bias, scaled", projections.plain, _lfm2, _passed_correction
)
SIGMOID_MUSE = Rule(
    SIGMOID_SCALED_BY_BLOCK.description,
    projections.multiplied,
    _scaled_sigmoid("routed_scaling_factor", epsilon=1e-15),
    _own_correction,
)
SIGMOID_WITH_SHARED = Rule(
    "sigmoid with native correction bias, renormalised with the shared experts, times a learnt factor",
    projections.without_autocast,
    lambda router: Scoring(
        function="sigmoid",
        in_logs=True,
        normalize=True,
        num_shared=router.n_shared_experts,
        scale=router.route_scale,
        sorted_slots=False,
    ),
    lambda router: router.e_score_correction_bias.float(),
    weights_like_hidden=True,
    gain=lambda router: router.global_scale.float(),
)
SIGMOID_LAGUNA = Rule(
    "sigmoid of soft-capped logits with native correction bias, renormalised",
    projections.softcapped,
    _constant(function="sigmoid", normalize=True),
    _own_correction,
    weights_like_hidden=True,
)
SCORED = Rule(
    "sigmoid or sqrt(softplus) with native correction bias, renormalised, scaled",
    projections.plain,
    _scored_by,
    _own_correction,
)
SCORED_FLOAT32 = Rule(SCORED.description, projections.in_float32, _scored_by, _own_correction)
