"""Tiny random models of every family, for tests and examples: no downloads, milliseconds to build."""

import copy
from typing import Any

import torch
from transformers import AutoConfig

from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.own_types import auto_class
from expert_condenser.testing.families import TINY_FAMILIES

VOCABULARY_SIZE = 96
_COMMON = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
_DEEPSEEK: dict[str, Any] = {
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "routed_scaling_factor": 1.5,
}
TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3},
    "olmoe_normalized": {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True},
    "qwen2_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 28,
    },
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "head_dim": 16,
        "norm_topk_prob": True,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 3},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "greedy", "n_group": None, "topk_group": None},
    "deepseek_v2_grouped": {**_DEEPSEEK, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 3},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 16, "sliding_window": 16},
}
"""The families that most tests run over: a key is a model type, or one with a variant (`deepseek_v2_grouped`).

The others are in `tiny_families.py`, and `tests/test_families.py` runs over all.
"""
_VARIANTS = {"olmoe_normalized": "olmoe", "deepseek_v2_grouped": "deepseek_v2"}
_CORRECTIONS = ("e_score_correction_bias", "expert_bias")
"""What families name their own bias on the scores."""
_GAINS = {"per_expert_scale", "global_scale"}
"""What families name their own learnt factor on the weights."""


def tiny_config(name: str = "olmoe", **overrides: Any) -> Any:
    """The config of `tiny_model(name)`; `overrides` are options of the text model."""
    options = copy.deepcopy(TINY_CONFIGS[name] if name in TINY_CONFIGS else TINY_FAMILIES[name])
    if "text_config" in options:
        return AutoConfig.for_model(
            name, **{**options, "text_config": {**_COMMON, **options["text_config"], **overrides}}
        )
    return AutoConfig.for_model(_VARIANTS.get(name, name), **{**_COMMON, **options, **overrides})


def tiny_model(name: str = "olmoe", *, seed: int = 0, spread: float = 8.0, **overrides: Any) -> Any:
    """A random model of `TINY_CONFIGS[name]` or `TINY_FAMILIES[name]`, float32, in eval mode, same for the same seed.

    The router weights are scaled by `spread`, so that experts are used unequally, as in real models; a
    family's own correction bias is small random numbers, its learnt factor on the weights 0.5 to 1.5.
    """
    config = tiny_config(name, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(type(config)).from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for layer in moe_layers(model):
            for parameter in model.get_submodule(layer.gate).parameters():
                if parameter.dim() > 1:
                    parameter.mul_(spread)
        generator = torch.Generator().manual_seed(seed)
        for tensor_name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor_name.rpartition(".")[2] in _CORRECTIONS:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 - 0.05)
        for layer in moe_layers(model):
            for tensor_name in _GAINS & dict(layer.router.named_parameters()).keys():
                layer.router.get_parameter(tensor_name).uniform_(0.5, 1.5, generator=generator)
    return model


def tiny_batch(rows: int = 4, length: int = 12, *, seed: int = 0) -> torch.Tensor:
    """Random token ids `(rows, length)`, none of them the padding token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY_SIZE, (rows, length), generator=generator)
