"""Tiny configs of the families that `testing.TINY_CONFIGS` does not have, for `testing.tiny_model`.

Eight experts, top-3, at least two MoE layers; where a family limits routing to groups, four groups of two
experts with three kept, so that the limit matters. Models of images and text have a tiny tower for images.
"""

from typing import Any

# Experts, by the names that families give them.
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 3}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
}
_GROUPED = {**_ROUTED, "n_group": 4, "topk_group": 3}
_LIMITED = {**_GROUPED, "topk_method": "group_limited_greedy"}
_ERNIE = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 20, "head_dim": 16}
_HEAD = {"head_dim": 16}
_SHARED = {"shared_expert_intermediate_size": 28}

# Layers, of which the first may have no experts.
_DENSE_FIRST: dict[str, Any] = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
_HYBRID: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

# Attention of several families.
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
_INDEXED = {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 2}
_DEEPSEEK: dict[str, Any] = {**_GROUPED, **_LATENT, **_DENSE_FIRST}
_DEEPSEEK_INDEXED = {**_DEEPSEEK, **_INDEXED}
_DELTA = {"linear_head_dim": 8, "linear_num_heads": 2, "linear_conv_kernel_dim": 2}
_GATED_DELTA = {
    **_HYBRID,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

# Text models that a family has both alone and inside a model of images and text.
_ARIA = {"moe_num_experts": 8, "moe_topk": 3}
_DOTS3 = {**_DEEPSEEK_INDEXED, "shared_experts_intermediate_size": 28, "layer_types": ["indexed_attention"] * 3}
_INKLING2 = {
    **_ROUTED,
    **_HEAD,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "unpadded_vocab_size": 96,
    "rel_extent": 16,
    "d_rel": 4,
    "sliding_window_size": 8,
}
_INKLING = {
    **_HEAD,
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
_MINIMAX_M3 = {
    **_LOCAL,
    **_HEAD,
    "dense_intermediate_size": 24,
    "shared_intermediate_size": 28,
    "rotary_dim": 8,
}
_NEMOTRON: dict[str, Any] = {
    **_GROUPED,
    **_HEAD,
    "layer_types": ["linear_attention", "moe", "full_attention", "moe"],
    "num_hidden_layers": 4,
    "moe_shared_expert_intermediate_size": 28,
    "ssm_state_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 8,
}
_QWEN3_5 = {**_EXPERTS, **_HEAD, **_SHARED, **_GATED_DELTA}
_QWEN4 = {
    **_QWEN3_5,
    "hc_count": 2,
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

_GEMMA4: dict[str, Any] = {
    **_HEAD,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 20,
    "hidden_size_per_layer_input": 0,
    "global_head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}

# Towers for images and sound.
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "patch_size": 4,
}
_DEPTH = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4}
_VIT = {**_TOWER, "image_size": 16}
_GLM_VIT = {**_DEPTH, "image_size": 16, "out_hidden_size": 32}
_QWEN_VIT: dict[str, Any] = {**_DEPTH, "out_hidden_size": 32, "num_position_embeddings": 16}
_QWEN3_VIT = {**_QWEN_VIT, "deepstack_visual_indexes": [0]}
_SAM: dict[str, Any] = {
    **_TOWER,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 8,
    "mlp_dim": 24,
    "downsample_channels": [8, 16],
    "window_size": 2,
    "global_attn_indexes": [0],
}
_OCR = {"text_config": {**_LIMITED, **_DENSE_FIRST}, "vision_config": {"sam_config": _SAM, "encoder_config": _TOWER}}
_QWEN3_SOUND = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "d_model": 16,
    "output_dim": 32,
    "downsample_hidden_size": 8,
}
_DOTS3_SOUND = {
    **_TOWER,
    "feature_size": 16,
    "downsample_hidden_size": 8,
    "adapter_input_size": 16,
    "adapter_out_dim": 32,
}


def _rope(*sections: int) -> dict[str, Any]:
    """Rotary embeddings over time, height and width."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}}


_TEXT_ONLY: dict[str, dict[str, Any]] = {
    "afmoe": {**_EXPERTS, **_HEAD, "num_dense_layers": 1, "route_scale": 1.5, "sliding_window": 8},
    "aria_text": _ARIA,
    "axk1": _DEEPSEEK,
    "axk2": {**_DEEPSEEK_INDEXED, "gated_norm_rank": 4},
    "bailing_hybrid": {**_DEEPSEEK, **_LOCAL, "head_dim": 8, "layer_group_size": 2},
    "beam": {**_EXPERTS, **_HEAD, **_DENSE_FIRST, "n_group": 4, "topk_group": 3},
    "cohere2_moe": {**_EXPERTS, **_HEAD},
    "deepseek_v3": {**_DEEPSEEK, "first_k_dense_replace": 1},
    "deepseek_v32": _DEEPSEEK_INDEXED,
    "deepseek_v4": {
        **_ROUTED,
        **_INDEXED,
        **_HEAD,
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
    },
    "dots1": {**_GROUPED, **_HEAD, "first_k_dense_replace": 1},
    "dots3_note_text": _DOTS3,
    "ernie4_5_moe": _ERNIE,
    "exaone_moe": {**_EXPERTS, **_HEAD, "n_group": 4, "topk_group": 3},
    "flex_olmo": _EXPERTS,
    "flint": {**_EXPERTS, **_HEAD, **_SHARED, "mlp_only_layers": [0]},
    "gemma4_text": _GEMMA4,
    "glm4_moe": {**_GROUPED, **_HEAD},
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": _DEEPSEEK_INDEXED,
    "granitemoe": _LOCAL,
    "granitemoe_swa": _LOCAL,
    "granitemoehybrid": {**_LOCAL, **_HYBRID, "mamba_n_heads": 8, "mamba_d_state": 8, "shared_intermediate_size": 28},
    "granitemoeshared": {**_LOCAL, "shared_intermediate_size": 28},
    "hunyuan_v1_moe": {**_HEAD, "num_experts": 8, "moe_topk": 3},
    "hy_v3": {**_EXPERTS, **_HEAD},
    "hy_v4": _DEEPSEEK_INDEXED,
    "inkling2_text": _INKLING2,
    "inkling_text": _INKLING,
    "jamba": {
        **_EXPERTS,
        "use_mamba_kernels": False,
        "mamba_d_state": 8,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "kimi_linear": {**_DEEPSEEK, **_LOCAL, **_DELTA, **_HYBRID, "q_lora_rank": None},
    "kolibri1": {**_EXPERTS, **_HEAD, **_SHARED},
    "laguna": {**_EXPERTS, **_HEAD, **_SHARED},
    "lfm2_moe": {**_EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {
        **_LATENT,
        "num_hidden_layers": 6,
        "n_routed_experts": 6,
        "zero_expert_num": 2,
        "moe_topk": 3,
        "expert_ffn_hidden_size": 20,
        "ffn_hidden_size": 24,
        "head_dim": 8,
        "routed_scaling_factor": 1.5,
    },
    "mellum": {**_EXPERTS, **_HEAD},
    "mimo_v2_flash": {**_GROUPED, "num_key_value_heads": 1, "head_dim": 24, "v_head_dim": 16, "sliding_window": 8},
    "minimax": {**_LOCAL, **_HEAD, "block_size": 8},
    "minimax_m2": {**_LOCAL, **_HEAD},
    "minimax_m3_vl_text": _MINIMAX_M3,
    "mistral4": {**_GROUPED, **_LATENT},
    "nemotron_h": _NEMOTRON,
    "phimoe": {"num_local_experts": 8, "num_experts_per_tok": 2, "router_jitter_noise": 0.2},
    "qwen3_5_moe_text": _QWEN3_5,
    "qwen3_next": _QWEN3_5,
    "qwen4_exp_text": _QWEN4,
    "solar_open": {**_GROUPED, **_HEAD},
}
_OF_IMAGES_AND_TEXT: dict[str, dict[str, Any]] = {
    "aria": {
        "text_config": _ARIA,
        "vision_config": {**_VIT, "model_type": "idefics3_vision"},
        "projector_patch_to_query_dict": {16: 4},
    },
    "deepseek_ocr2": _OCR,
    "dots3_note": {
        "text_config": _DOTS3,
        "vision_config": {
            **_TOWER,
            "moe_intermediate_size": 20,
            "pyramid_num_routed": [4],
            "adapter_in_dim": 16,
            "adapter_out_dim": 32,
        },
        "audio_config": _DOTS3_SOUND,
    },
    "ernie4_5_vl_moe": {
        "text_config": {**_ERNIE, "moe_intermediate_size": [20, 12], **_rope(3, 3, 2)},
        "vision_config": {**_DEPTH, "hidden_size": 32},
    },
    "gemma4": {"text_config": _GEMMA4, "vision_config": {**_TOWER, **_HEAD, "position_embedding_size": 16}},
    "glm4v_moe": {"text_config": {**_GROUPED, **_HEAD, **_rope(1, 1, 2)}, "vision_config": _GLM_VIT},
    "glm5_next": {
        "text_config": {
            **_DEEPSEEK_INDEXED,
            **_DELTA,
            **_HYBRID,
            "qk_rope_head_dim": 0,
            "index_kpool": 2,
            "hc_mult": 2,
        },
        "vision_config": {**_GLM_VIT, "projection_intermediate_size": 24},
    },
    "inkling2": {
        "text_config": _INKLING2,
        "vision_config": {**_TOWER, "projection_hidden_dim": 24, "text_hidden_size": 32, "posemb_grid_size": 4},
    },
    "inkling_mm_model": {
        "text_config": _INKLING,
        "vision_config": {"patch_size": 4, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2},
        "audio_config": {"n_mel_bins": 4, "mel_vocab_size": 8},
    },
    "kimi_k25": {"text_config": {**_DEEPSEEK, "first_k_dense_replace": 1}, "vision_config": _TOWER},
    "minimax_m3_vl": {"text_config": _MINIMAX_M3, "vision_config": _VIT, "projector_hidden_size": 32},
    "mistral_large4": {"text_config": _DEEPSEEK_INDEXED, "vision_config": {**_VIT, "model_type": "pixtral"}},
    "muse_spark": {
        "text_config": {**_LOCAL, **_HEAD, "moe_intermediate_size": 20, "moe_hidden_size": 28},
        "vision_config": _TOWER,
        "audio_config": {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "out_hidden_size": 32},
        "out_hidden_size": 32,
        "projector_hidden_size": 32,
    },
    "qwen3_5_moe": {"text_config": _QWEN3_5, "vision_config": _QWEN_VIT},
    "qwen3_omni_moe_thinker": {
        "text_config": {**_EXPERTS, **_HEAD},
        "vision_config": _QWEN3_VIT,
        "audio_config": _QWEN3_SOUND,
        "vision_start_token_id": 100,
    },
    "qwen3_vl_moe": {"text_config": {**_EXPERTS, **_HEAD}, "vision_config": _QWEN3_VIT},
    "qwen4_exp": {"text_config": _QWEN4, "vision_config": _QWEN_VIT},
    "step3p7": {
        "text_config": {
            **_ROUTED,
            **_HEAD,
            **_DENSE_FIRST,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "share_expert_dim": 28,
            "sliding_window": 8,
        },
        "vision_config": _VIT,
    },
    "unlimited_ocr": _OCR,
}
TINY_FAMILIES = {**_TEXT_ONLY, **_OF_IMAGES_AND_TEXT}
"""A key is a model type; what is not named here comes from `testing.py`, for the text model where there are several."""
