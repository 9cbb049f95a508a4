"""Tiny configs of the families that `testing.TINY_CONFIGS` does not have, for `testing.tiny_model`.

Those of text are in `text_families.py`; models of images and text have a tiny tower for images besides.
"""

from typing import Any

from expert_condenser.testing.text_families import (
    ARIA,
    DEEPSEEK,
    DEEPSEEK_INDEXED,
    DELTA,
    DENSE_FIRST,
    DOTS3,
    ERNIE,
    EXPERTS,
    GEMMA4,
    GROUPED,
    HEAD,
    HYBRID,
    INKLING,
    INKLING2,
    LIMITED,
    LLAMA4,
    LOCAL,
    MINIMAX_M3,
    NEMOTRON,
    QWEN3_5,
    QWEN4,
    ROUTED,
    TEXT_ONLY,
)

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
_OCR = {"text_config": {**LIMITED, **DENSE_FIRST}, "vision_config": {"sam_config": _SAM, "encoder_config": _TOWER}}
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


_OF_IMAGES_AND_TEXT: dict[str, dict[str, Any]] = {
    "aria": {
        "text_config": ARIA,
        "vision_config": {**_VIT, "model_type": "idefics3_vision"},
        "projector_patch_to_query_dict": {16: 4},
    },
    "deepseek_ocr2": _OCR,
    "dots3_note": {
        "text_config": DOTS3,
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
        "text_config": {**ERNIE, "moe_intermediate_size": [20, 12], **_rope(3, 3, 2)},
        "vision_config": {**_DEPTH, "hidden_size": 32},
    },
    "gemma4": {"text_config": GEMMA4, "vision_config": {**_TOWER, **HEAD, "position_embedding_size": 16}},
    "glm4v_moe": {"text_config": {**GROUPED, **HEAD, **_rope(1, 1, 2)}, "vision_config": _GLM_VIT},
    "glm5_next": {
        "text_config": {
            **DEEPSEEK_INDEXED,
            **DELTA,
            **HYBRID,
            "qk_rope_head_dim": 0,
            "index_kpool": 2,
            "hc_mult": 2,
        },
        "vision_config": {**_GLM_VIT, "projection_intermediate_size": 24},
    },
    "inkling2": {
        "text_config": INKLING2,
        "vision_config": {**_TOWER, "projection_hidden_dim": 24, "text_hidden_size": 32, "posemb_grid_size": 4},
    },
    "inkling_mm_model": {
        "text_config": INKLING,
        "vision_config": {"patch_size": 4, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2},
        "audio_config": {"n_mel_bins": 4, "mel_vocab_size": 8},
    },
    "kimi_k25": {"text_config": {**DEEPSEEK, "first_k_dense_replace": 1}, "vision_config": _TOWER},
    "llama4": {
        "text_config": LLAMA4,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
    },
    "minimax_m3_vl": {"text_config": MINIMAX_M3, "vision_config": _VIT, "projector_hidden_size": 32},
    "mistral_large4": {"text_config": DEEPSEEK_INDEXED, "vision_config": {**_VIT, "model_type": "pixtral"}},
    "muse_spark": {
        "text_config": {**LOCAL, **HEAD, "moe_intermediate_size": 20, "moe_hidden_size": 28},
        "vision_config": _TOWER,
        "audio_config": {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "out_hidden_size": 32},
        "out_hidden_size": 32,
        "projector_hidden_size": 32,
    },
    "nemotron_h_omni": {
        "text_config": {**NEMOTRON, "model_type": "nemotron_h"},
        "vision_config": {**_VIT, "model_type": "radio", "video_temporal_patch_size": 2, "max_img_size": 32},
        "vision_hidden_size": 16,
        "projector_hidden_size": 32,
        "image_token_id": 95,
    },
    "qwen3_5_moe": {"text_config": QWEN3_5, "vision_config": _QWEN_VIT},
    "qwen3_omni_moe_thinker": {
        "text_config": {**EXPERTS, **HEAD},
        "vision_config": _QWEN3_VIT,
        "audio_config": _QWEN3_SOUND,
        "vision_start_token_id": 100,
    },
    "qwen3_vl_moe": {"text_config": {**EXPERTS, **HEAD}, "vision_config": _QWEN3_VIT},
    "qwen4_exp": {"text_config": QWEN4, "vision_config": _QWEN_VIT},
    "step3p7": {
        "text_config": {
            **ROUTED,
            **HEAD,
            **DENSE_FIRST,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "share_expert_dim": 28,
            "sliding_window": 8,
        },
        "vision_config": _VIT,
    },
    "unlimited_ocr": _OCR,
}
TINY_FAMILIES = {**TEXT_ONLY, **_OF_IMAGES_AND_TEXT}
"""A key is a model type; what is not named here comes from `testing.py`, for the text model where there are several."""
