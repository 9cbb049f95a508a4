"""Tiny configs of text models, and the pieces of them that models of images and text share.

Eight experts, top-3, at least two MoE layers; where a family limits routing to groups, four groups of two
experts with three kept, so that the limit matters.
"""

from typing import Any

# Experts, by the names that families give them.
LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 3}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
}
GROUPED = {**ROUTED, "n_group": 4, "topk_group": 3}
LIMITED = {**GROUPED, "topk_method": "group_limited_greedy"}
ERNIE = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 20, "head_dim": 16}
HEAD = {"head_dim": 16}
SHARED = {"shared_expert_intermediate_size": 28}

# Layers, of which the first may have no experts.
DENSE_FIRST: dict[str, Any] = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
HYBRID: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

# Attention of several families.
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
INDEXED = {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 2}
DEEPSEEK: dict[str, Any] = {**GROUPED, **LATENT, **DENSE_FIRST}
DEEPSEEK_INDEXED = {**DEEPSEEK, **INDEXED}
DELTA = {"linear_head_dim": 8, "linear_num_heads": 2, "linear_conv_kernel_dim": 2}
GATED_DELTA = {
    **HYBRID,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

# Text models that a family has both alone and inside a model of images and text.
ARIA = {"moe_num_experts": 8, "moe_topk": 3}
DOTS3 = {**DEEPSEEK_INDEXED, "shared_experts_intermediate_size": 28, "layer_types": ["indexed_attention"] * 3}
INKLING2 = {
    **ROUTED,
    **HEAD,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "unpadded_vocab_size": 96,
    "rel_extent": 16,
    "d_rel": 4,
    "sliding_window_size": 8,
}
INKLING = {
    **HEAD,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "route_scale": 1.5,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "rel_extent": 16,
    "d_rel": 4,
    "sliding_window_size": 8,
    "logits_mup_width_multiplier": 1.0,
    "local_layer_ids": [0, 2],
}
MINIMAX_M3 = {
    **LOCAL,
    **HEAD,
    "dense_intermediate_size": 24,
    "shared_intermediate_size": 28,
    "rotary_dim": 8,
}
NEMOTRON: dict[str, Any] = {
    **GROUPED,
    **HEAD,
    "layer_types": ["linear_attention", "moe", "full_attention", "moe"],
    "num_hidden_layers": 4,
    "moe_shared_expert_intermediate_size": 28,
    "ssm_state_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 8,
}
QWEN3_5 = {**EXPERTS, **HEAD, **SHARED, **GATED_DELTA}
QWEN4 = {
    **QWEN3_5,
    "hc_count": 2,
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

LLAMA4 = {
    **HEAD,
    "num_local_experts": 8,
    "num_experts_per_tok": 1,
    "intermediate_size_mlp": 28,
    "attention_chunk_size": 8,
    "interleave_moe_layer_step": 1,
}
GEMMA4: dict[str, Any] = {
    **HEAD,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 20,
    "hidden_size_per_layer_input": 0,
    "global_head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}

TEXT_ONLY: dict[str, dict[str, Any]] = {
    "afmoe": {**EXPERTS, **HEAD, "num_dense_layers": 1, "route_scale": 1.5, "sliding_window": 8},
    "aria_text": ARIA,
    "axk1": DEEPSEEK,
    "axk2": {**DEEPSEEK_INDEXED, "gated_norm_rank": 4},
    "bailing_hybrid": {**DEEPSEEK, **LOCAL, "head_dim": 8, "layer_group_size": 2},
    "beam": {**EXPERTS, **HEAD, **DENSE_FIRST, "n_group": 4, "topk_group": 3},
    "cohere2_moe": {**EXPERTS, **HEAD},
    "dbrx": {
        "d_model": 32,  # not by its other name, hidden_size: the parts of the config get their width from this one
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 8, "moe_top_k": 3},
    },
    "deepseek_v3": {**DEEPSEEK, "first_k_dense_replace": 1},
    "deepseek_v32": DEEPSEEK_INDEXED,
    "deepseek_v4": {
        **ROUTED,
        **INDEXED,
        **HEAD,
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
    },
    "dots1": {**GROUPED, **HEAD, "first_k_dense_replace": 1},
    "dots3_note_text": DOTS3,
    "ernie4_5_moe": ERNIE,
    "exaone_moe": {**EXPERTS, **HEAD, "n_group": 4, "topk_group": 3},
    "flex_olmo": EXPERTS,
    "flint": {**EXPERTS, **HEAD, **SHARED, "mlp_only_layers": [0]},
    "gemma4_text": GEMMA4,
    "glm4_moe": {**GROUPED, **HEAD},
    "glm4_moe_lite": DEEPSEEK,
    "glm_moe_dsa": DEEPSEEK_INDEXED,
    "granitemoe": LOCAL,
    "granitemoe_swa": LOCAL,
    "granitemoehybrid": {**LOCAL, **HYBRID, "mamba_n_heads": 8, "mamba_d_state": 8, "shared_intermediate_size": 28},
    "granitemoeshared": {**LOCAL, "shared_intermediate_size": 28},
    "hunyuan_v1_moe": {**HEAD, "num_experts": 8, "moe_topk": 3},
    "hy_v3": {**EXPERTS, **HEAD},
    "hy_v4": DEEPSEEK_INDEXED,
    "inkling2_text": INKLING2,
    "inkling_text": INKLING,
    "jamba": {
        **EXPERTS,
        "use_mamba_kernels": False,
        "mamba_d_state": 8,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "kimi_linear": {**DEEPSEEK, **LOCAL, **DELTA, **HYBRID, "q_lora_rank": None},
    "kolibri1": {**EXPERTS, **HEAD, **SHARED},
    "laguna": {**EXPERTS, **HEAD, **SHARED},
    "lfm2_moe": {**EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": LLAMA4,
    "longcat_flash": {
        **LATENT,
        "num_hidden_layers": 6,
        "n_routed_experts": 6,
        "zero_expert_num": 2,
        "moe_topk": 3,
        "expert_ffn_hidden_size": 20,
        "ffn_hidden_size": 24,
        "head_dim": 8,
        "routed_scaling_factor": 1.5,
    },
    "mellum": {**EXPERTS, **HEAD},
    "mimo_v2_flash": {**GROUPED, "num_key_value_heads": 1, "head_dim": 24, "v_head_dim": 16, "sliding_window": 8},
    "minimax": {**LOCAL, **HEAD, "block_size": 8},
    "minimax_m2": {**LOCAL, **HEAD},
    "minimax_m3_vl_text": MINIMAX_M3,
    "mistral4": {**GROUPED, **LATENT},
    "nemotron_h": NEMOTRON,
    "phimoe": {"num_local_experts": 8, "num_experts_per_tok": 2, "router_jitter_noise": 0.2},
    "qwen3_5_moe_text": QWEN3_5,
    "qwen3_next": QWEN3_5,
    "qwen4_exp_text": QWEN4,
    "solar_open": {**GROUPED, **HEAD},
}
