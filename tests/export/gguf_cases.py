"""The tuned models that are written as GGUF, one for each way of a routing into llama.cpp."""

from typing import Any, NamedTuple

from expert_condenser import RoutingConfig

VOCABULARY = {"vocab_size": 320}
"""As many rows as the test's tokenizer has tokens, and some without one."""
LITE = {"num_hidden_layers": 27}
SCORE, LIFTED = RoutingConfig(bias_space="score"), RoutingConfig(condenser_groups="native")
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    },
    "max_position_embeddings": 2560,
}


def yarn(**change: Any) -> dict[str, Any]:
    """Options of a model like those of `YARN`, with others for its rotation; None takes one away."""
    rope = {**YARN["rope_parameters"], **change}  # type: ignore[dict-item]
    return {**YARN, "rope_parameters": {name: value for name, value in rope.items() if value is not None}}


GROUPED_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


class Case(NamedTuple):
    """A tiny model, its policy, and how many condensers a layer has."""

    family: str
    condensers: int = 2
    policy: RoutingConfig | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default, never written to

    @property
    def name(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items() if key != "rope_parameters")
        policy = self.policy or RoutingConfig()
        return f"{self.family} {policy.bias_space} {policy.budget} {self.condensers} {options}".strip()


CASES = [
    Case("mixtral", options=GROUPED_HEADS | {"head_dim": 16}),
    Case("mixtral", 0),
    Case("mixtral", 1, SCORE),
    Case("qwen3_moe", options=GROUPED_HEADS | {"tie_word_embeddings": True}),
    Case("qwen3_moe", 1, RoutingConfig(budget="additive")),
    Case("qwen3_moe", 1, SCORE, {"norm_topk_prob": False}),
    Case("olmoe_normalized", options=GROUPED_HEADS | {"tie_word_embeddings": True}),
    Case("olmoe_normalized", 1, SCORE),
    Case("deepseek_v2", 2, SCORE, {"q_lora_rank": 16}),
    Case("deepseek_v2", 1, SCORE, LITE | YARN),
    Case("deepseek_v3", 2, LIFTED, YARN),
    Case("glm4_moe", 0),
    Case("glm4_moe", 1, LIFTED, {"use_qk_norm": True, "attention_bias": True}),
    Case("minimax_m2", 2),
]
