"""The sizes that are measured: published MoE models, the testbed, and a small one for a quick look."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig

from expert_condenser.moe.own_types import auto_class

VOCABULARY = 1024
"""Of every shape: the cost is that of the layers, not of the embeddings."""


@dataclass(frozen=True)
class Shape:
    """One model's sizes; `options` are those of its family's config besides."""

    family: str
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    tokens: int = 2048
    layers: int = 1
    shared: int = 0
    """Width of the experts that every token passes besides."""
    options: dict[str, Any] = field(default_factory=dict)

    def expert_flops(self) -> int:
        """FLOPs of one layer's experts, forward and backward: three products of `6 T D (K I + shared)` each."""
        return 3 * 6 * self.tokens * self.hidden * (self.top_k * self.intermediate + self.shared)

    def config(self) -> Any:
        """The family's config at these sizes."""
        sizes = {
            "hidden_size": self.hidden,
            _INTERMEDIATE.get(self.family, "moe_intermediate_size"): self.intermediate,
            _EXPERTS.get(self.family, "num_experts"): self.experts,
            "num_experts_per_tok": self.top_k,
            "num_hidden_layers": self.layers,
        }
        return AutoConfig.for_model(self.family, **{**_COMMON, **self.options, **sizes})

    def model(self, device: str, dtype: torch.dtype) -> Any:
        """A random model of these sizes, in training mode."""
        config = self.config()
        torch.manual_seed(0)
        model = auto_class(type(config)).from_config(config, dtype=torch.float32)
        return model.to(device=device, dtype=dtype).train()


_INTERMEDIATE = {"olmoe": "intermediate_size", "gpt_oss": "intermediate_size"}
_EXPERTS = {"deepseek_v2": "n_routed_experts", "gpt_oss": "num_local_experts"}
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
_HEADS = {"num_attention_heads": 16, "num_key_value_heads": 16}
SHAPES = {
    "small": Shape("olmoe", 512, 256, 64, 8, options={"num_attention_heads": 8}),
    "testbed": Shape("olmoe", 160, 80, 24, 4, tokens=6144, layers=5, options={"num_attention_heads": 5}),
    "olmoe": Shape("olmoe", 2048, 1024, 64, 8, options=_HEADS),
    "qwen1.5-moe": Shape(
        "qwen2_moe", 2048, 1408, 60, 4, shared=5632, options={**_HEADS, "shared_expert_intermediate_size": 5632}
    ),
    "deepseek-v2-lite": Shape(
        "deepseek_v2",
        *(2048, 1408, 64, 6),
        shared=2816,
        options={
            **_HEADS,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "topk_method": "greedy",
            "n_group": None,
            "topk_group": None,
        },
    ),
    "gpt-oss": Shape(
        "gpt_oss", 2880, 2880, 32, 4, options={"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64}
    ),
}
"""Sizes of the published models' MoE layers, from their model cards; `testbed` is a batch of its fine-tuning."""


def share_storage(model: Any) -> Any:
    """A copy of a model with parameters of its own on the same memory: gradients apart, weights in common."""
    own = {id(p): torch.nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, own)
