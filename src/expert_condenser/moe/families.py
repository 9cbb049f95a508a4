"""The table of families: which router class each model type has, and by which rule it scores.

A type in `FAMILIES` is supported: the suite attaches to a tiny model of it, trains, saves and reloads. One in
`REFUSED` has a router that the method does not fit; it is refused with the reason.
"""

from dataclasses import dataclass

from expert_condenser.moe import rules
from expert_condenser.moe.rule import Rule


@dataclass(frozen=True)
class Family:
    """One model type."""

    router_class: str
    rule: Rule
    router: str
    """Where the router sits in a decoder layer; its experts are beside it."""


FAMILIES: dict[str, Family] = {
    "afmoe": Family("AfmoeTokenChoiceRouter", rules.SIGMOID_AFMOE, "mlp.router"),
    "aria": Family("AriaTextTopKRouter", rules.TOPK_SOFTMAX, "mlp.router"),
    "aria_text": Family("AriaTextTopKRouter", rules.TOPK_SOFTMAX, "mlp.router"),
    "axk1": Family("AXK1TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "axk2": Family("AXK2TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "bailing_hybrid": Family("BailingHybridTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "beam": Family("BeamTopKRouter", rules.SIGMOID_GROUPED_SORTED, "mlp.gate"),
    "cohere2_moe": Family("Cohere2MoeTopKRouter", rules.TOPK_EITHER, "mlp.gate"),
    "dbrx": Family("DbrxFFN", rules.SOFTMAX_NORM, "ffn"),
    "deepseek_ocr2": Family("DeepseekOcr2TextTopkRouter", rules.SOFTMAX_LIMITED, "mlp.gate"),
    "deepseek_v2": Family("DeepseekV2TopkRouter", rules.SOFTMAX_LIMITED, "mlp.gate"),
    "deepseek_v3": Family("DeepseekV3TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "deepseek_v32": Family("DeepseekV32TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "deepseek_v4": Family("DeepseekV4TopKRouter", rules.SCORED, "mlp.gate"),
    "dots1": Family("Dots1TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "dots3_note": Family("Dots3NoteTextTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "dots3_note_text": Family("Dots3NoteTextTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "ernie4_5_moe": Family("Ernie4_5_MoeTopKRouter", rules.SOFTMAX_CORRECTED, "mlp.gate"),
    "ernie4_5_vl_moe": Family("Ernie4_5_VLMoeMoeTopKRouter", rules.SOFTMAX_CORRECTED, "mlp.text_moe.gate"),
    "exaone_moe": Family("ExaoneMoeTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "flex_olmo": Family("FlexOlmoTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "flint": Family("FlintTopKRouter", rules.SIGMOID, "mlp.gate"),
    "gemma4": Family("Gemma4TextRouter", rules.SOFTMAX_PER_EXPERT, "router"),
    "gemma4_text": Family("Gemma4TextRouter", rules.SOFTMAX_PER_EXPERT, "router"),
    "glm4_moe": Family("Glm4MoeTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "glm4_moe_lite": Family("Glm4MoeLiteTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "glm4v_moe": Family("Glm4vMoeTextTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "glm5_next": Family("Glm5NextTextTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "glm_moe_dsa": Family("GlmMoeDsaTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "gpt_oss": Family("GptOssTopKRouter", rules.TOPK_SOFTMAX_BIASED, "mlp.router"),
    "granitemoe": Family("GraniteMoeTopKRouter", rules.TOPK_SOFTMAX_FLOAT32, "block_sparse_moe.router"),
    "granitemoe_swa": Family("GraniteMoeSWATopKRouter", rules.TOPK_SOFTMAX_FLOAT32, "block_sparse_moe.router"),
    "granitemoehybrid": Family("GraniteMoeHybridTopKRouter", rules.TOPK_SOFTMAX_FLOAT32, "block_sparse_moe.router"),
    "granitemoeshared": Family("GraniteMoeSharedTopKRouter", rules.TOPK_SOFTMAX_FLOAT32, "block_sparse_moe.router"),
    "hunyuan_v1_moe": Family("HunYuanMoEV1Gate", rules.SOFTMAX_HUNYUAN, "mlp.gate"),
    "hy_v3": Family("HYV3TopKRouter", rules.SIGMOID_SCALED_BY_BLOCK, "mlp.gate"),
    "hy_v4": Family("HYV4TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "inkling2": Family("Inkling2TopKRouter", rules.SCORED_FLOAT32, "mlp.gate"),
    "inkling2_text": Family("Inkling2TopKRouter", rules.SCORED_FLOAT32, "mlp.gate"),
    "inkling_mm_model": Family("InklingTopkRouter", rules.SIGMOID_WITH_SHARED, "mlp.gate"),
    "inkling_text": Family("InklingTopkRouter", rules.SIGMOID_WITH_SHARED, "mlp.gate"),
    "jamba": Family("JambaTopKRouter", rules.SOFTMAX_PLAIN, "feed_forward.router"),
    "kimi_k25": Family("DeepseekV3TopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "kimi_linear": Family("KimiLinearTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "kolibri1": Family("Kolibri1TopKRouter", rules.TOPK_SIGMOID_CORRECTED, "mlp.gate"),
    "laguna": Family("LagunaTopKRouter", rules.SIGMOID_LAGUNA, "mlp.gate"),
    "lfm2_moe": Family("Lfm2MoeTopKRouter", rules.SIGMOID_LFM2, "feed_forward.gate"),
    "llama4": Family("Llama4Router", rules.SIGMOID_OF_INPUT, "feed_forward.router"),
    "llama4_text": Family("Llama4Router", rules.SIGMOID_OF_INPUT, "feed_forward.router"),
    "longcat_flash": Family("LongcatFlashTopkRouter", rules.SOFTMAX_IDENTITY, "mlp.router"),
    "mellum": Family("MellumTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "mimo_v2_flash": Family("MiMoV2FlashTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "minimax": Family("MiniMaxTopKRouter", rules.SOFTMAX_FLOAT32, "mlp.gate"),
    "minimax_m2": Family("MiniMaxM2TopKRouter", rules.SIGMOID_CORRECTED_BY_BLOCK, "mlp.gate"),
    "minimax_m3_vl": Family("MiniMaxM3VLTopKRouter", rules.SIGMOID_CORRECTED, "mlp.gate"),
    "minimax_m3_vl_text": Family("MiniMaxM3VLTopKRouter", rules.SIGMOID_CORRECTED, "mlp.gate"),
    "mistral4": Family("Mistral4TopkRouter", rules.SOFTMAX_GROUPED, "mlp.gate"),
    "mistral_large4": Family("MistralLarge4TextTopkRouter", rules.SOFTMAX_GROUPED_FLOAT32, "mlp.gate"),
    "mixtral": Family("MixtralTopKRouter", rules.SOFTMAX_FLOAT32, "mlp.gate"),
    "muse_spark": Family("MuseSparkTopkRouter", rules.SIGMOID_MUSE, "mlp.gate"),
    "nemotron_h": Family("NemotronHTopkRouter", rules.SIGMOID_GROUPED, "mixer.gate"),
    "nemotron_h_omni": Family("NemotronHTopkRouter", rules.SIGMOID_GROUPED, "mixer.gate"),
    "olmoe": Family("OlmoeTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "phimoe": Family("PhimoeTopKRouter", rules.SPARSE_MIXER, "mlp.router"),
    "qwen2_moe": Family("Qwen2MoeTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "qwen3_5_moe_text": Family("Qwen3_5MoeTopKRouter", rules.SOFTMAX_NORMALIZED, "mlp.gate"),
    "qwen3_5_moe": Family("Qwen3_5MoeTopKRouter", rules.SOFTMAX_NORMALIZED, "mlp.gate"),
    "qwen3_moe": Family("Qwen3MoeTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "qwen3_next": Family("Qwen3NextTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "qwen3_omni_moe_thinker": Family("Qwen3OmniMoeThinkerTextTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "qwen3_vl_moe": Family("Qwen3VLMoeTextTopKRouter", rules.SOFTMAX_NORMALIZED, "mlp.gate"),
    "qwen4_exp": Family("Qwen4ExpTextTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "qwen4_exp_text": Family("Qwen4ExpTextTopKRouter", rules.SOFTMAX, "mlp.gate"),
    "solar_open": Family("SolarOpenTopkRouter", rules.SIGMOID_GROUPED, "mlp.gate"),
    "step3p7": Family("Step3p7TopKRouter", rules.SIGMOID_CORRECTED, "mlp.gate"),
    "unlimited_ocr": Family("UnlimitedOcrTextTopkRouter", rules.SOFTMAX_LIMITED, "mlp.gate"),
}

REFUSED: dict[str, str] = {
    "diffusion_gemma": "it is trained by denoising blocks of text, not by predicting the next token",
    "doge": "its experts are rows of an embedding, retrieved by the sum of two keys: there is no logit per expert",
    "jetmoe": "its routers return tokens already sorted by expert, for the attention as well",
    "nllb-moe": "its router drops tokens by expert capacity, and it is an encoder-decoder",
    "openai_privacy_filter": "it classifies tokens and generates no text",
    "qwen3_omni_moe": "it is a text model and a speech model in one; load its thinker (qwen3_omni_moe_thinker)",
    "switch_transformers": "its router drops tokens by expert capacity, and it is an encoder-decoder",
    "vitpose_backbone": "it estimates poses in images and generates no text",
    "zaya": "a token that skips the experts is handed on as expert 0 of weight 0; the router has a state across layers",
}
"""Model types with experts whose routing does not fit, with the reason."""
