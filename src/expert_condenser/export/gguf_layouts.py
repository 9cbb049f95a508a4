"""How a family is written for llama.cpp: as which of its architectures, under which names, with which numbers.

llama.cpp reads a bias of the choice (`exp_probs_b`) in some architectures only. A family without one is written as an
architecture that computes the same otherwise: Mixtral and Qwen3-MoE as `glm4moe` with a shared expert of zeros, and
OLMoE as `minimax-m2`. Both rotate halves, as these families do, so that no weight is permuted.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from expert_condenser.functional.scoring import Scoring

Value = bool | int | float | str
OF_MODEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
"""Tensors outside of the layers: transformers' name -> GGUF's."""
_ATTENTION = {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
_NORMS_OF_QK = {f"self_attn.{part}_norm": f"attn_{part}_norm" for part in "qk"}
_DENSE = {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
_SHARED = {f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
_LATENT = {
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
}


class Layout(NamedTuple):
    """An architecture of llama.cpp, and what a family's layers are called in it."""

    architecture: str
    names: Mapping[str, str]
    """Within a layer: transformers' name without `.weight` -> GGUF's."""
    divides: bool = False
    """Whether llama.cpp divides the weights by their sum whatever the file says."""
    zero_expert: bool = False
    """Whether a shared expert of zeros is written, since the architecture asks for one."""
    latent: bool = False
    """Whether attention is by latent vectors (MLA), whose up-projection is written as two tensors."""


def _layout(architecture: str, norm_of_experts: str, *parts: Mapping[str, str], **options: bool) -> Layout:
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": norm_of_experts, "mlp.gate": "ffn_gate_inp"}
    for part in parts:
        names.update(part)
    return Layout(architecture, names, **options)


_GLM = ("glm4moe", "post_attention_norm", _ATTENTION, _NORMS_OF_QK, _DENSE, _SHARED)
_MINIMAX = ("minimax-m2", "ffn_norm", _ATTENTION, _NORMS_OF_QK)
_DEEPSEEK = ("deepseek2", "ffn_norm", _LATENT, _DENSE, _SHARED)
LAYOUTS: dict[str, Layout] = {
    "deepseek_v2": _layout(*_DEEPSEEK, latent=True),
    "deepseek_v3": _layout(*_DEEPSEEK, latent=True),
    "glm4_moe": _layout(*_GLM),
    "minimax_m2": _layout(*_MINIMAX, divides=True),
    "mixtral": _layout(*_GLM, zero_expert=True),
    "olmoe": _layout(*_MINIMAX, divides=True),
    "qwen3_moe": _layout(*_GLM, zero_expert=True),
}
"""The families that are written as GGUF."""
LITE_LAYERS = (26, 27)
"""llama.cpp takes a `deepseek2` of as many layers for one without compressed queries, as DeepSeek-V2-Lite is."""
GATING = {"softmax": 1, "sigmoid": 2}
"""llama.cpp's `expert_gating_func`, by the function of the scores that are ranked."""
GATING_BY_LOGITS = 3
"""Rank logits, and weigh by the softmax of the chosen ones."""


def gating(scoring: Scoring, ranks_logits: bool) -> int:
    """The `expert_gating_func` of a routing."""
    return GATING_BY_LOGITS if ranks_logits else GATING[scoring.function]


def lift(ranks_logits: bool) -> float:
    """The choice bias of a condenser: above every score or logit."""
    return 16384.0 if ranks_logits else 1024.0


def obstacle(family: str, config: Any) -> str | None:
    """What of a config these layouts have no number or tensor for; None where there is nothing."""
    rope, latent = config.rope_parameters, LAYOUTS[family].latent
    kinds = ("default", "yarn") if latent else ("default",)
    if rope["rope_type"] not in kinds:
        return f"rope_type {rope['rope_type']!r}"
    if rope["rope_type"] == "yarn" and (strange := _yarn_obstacle(rope)):
        return strange
    if latent and not config.q_lora_rank and config.num_hidden_layers not in LITE_LAYERS:
        return f"no q_lora_rank, which llama.cpp knows of models with {LITE_LAYERS[0]} or {LITE_LAYERS[1]} layers only"
    if latent and (config.rms_norm_eps != 1e-6 or not getattr(config, "rope_interleave", True)):
        return "a rms_norm_eps other than 1e-6 or rope_interleave off"  # transformers norms latent vectors by 1e-6
    if getattr(config, "attention_bias", False) and family != "glm4_moe":  # the others have it on the output too
        return "attention_bias"
    if getattr(config, "clip_qkv", None) is not None:
        return "clip_qkv"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < config.max_position_embeddings:
        return f"sliding_window {window}"
    if getattr(config, "mlp_only_layers", None) or getattr(config, "decoder_sparse_step", 1) != 1:
        return "layers without experts among those with"
    return None if config.hidden_act == "silu" else f"hidden_act {config.hidden_act!r}"


def _yarn_obstacle(rope: Any) -> str | None:
    """What of YaRN a file does not say: in llama.cpp a `deepseek2` rotates without scaling."""
    given, mscale = rope.get("attention_factor"), rope.get("mscale")
    if given is not None and given != 1:
        return f"attention_factor {given}"
    if given is None and (not mscale or mscale != rope.get("mscale_all_dim")):
        return "a mscale that is not mscale_all_dim, or none, with which the rotation is scaled"
    return None if rope.get("truncate", True) else "truncate off"


def hyperparameters(
    config: Any, layout: Layout, scoring: Scoring, experts: int, slots: int, ranks_logits: bool
) -> dict[str, Value]:
    """The numbers of a model, by their names in the file without the architecture in front.

    A token chooses as many of the `experts` as it has `slots`.
    """
    of_expert = int(getattr(config, "moe_intermediate_size", None) or config.intermediate_size)
    found: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": of_expert if layout.architecture == "minimax-m2" else config.intermediate_size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "vocab_size": config.vocab_size,
        "expert_count": experts,
        "expert_used_count": slots,
        "expert_feed_forward_length": of_expert,
        "expert_gating_func": gating(scoring, ranks_logits),
        "expert_weights_norm": scoring.normalize and not ranks_logits,
        "expert_weights_scale": float(scoring.scale),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    if layout.architecture != "minimax-m2":
        found["expert_shared_count"] = 1 if layout.zero_expert else config.n_shared_experts
        found["leading_dense_block_count"] = getattr(config, "first_k_dense_replace", None) or 0
    if scoring.num_groups > 1:
        found |= {"expert_group_count": scoring.num_groups, "expert_group_used_count": scoring.groups_kept}
    return found | (_latent_attention(config) if layout.latent else _attention(config))


def _attention(config: Any) -> dict[str, Value]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": int(head * config.rope_parameters.get("partial_rotary_factor", 1.0)),
    }


def _latent_attention(config: Any) -> dict[str, Value]:
    """MLA, which llama.cpp computes as one key head: the latent vector, and the rotated part behind it."""
    found: dict[str, Value] = {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
    }
    if config.q_lora_rank:
        found["attention.q_lora_rank"] = config.q_lora_rank
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
            "rope.scaling.yarn_beta_fast": float(rope.get("beta_fast") or 32),
            "rope.scaling.yarn_beta_slow": float(rope.get("beta_slow") or 1),
            "rope.scaling.yarn_log_multiplier": 0.1 * float(rope.get("mscale_all_dim") or 0.0),
        }
    return found
