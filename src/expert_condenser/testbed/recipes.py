"""The recipes of the testbed's base models."""

import math
from dataclasses import dataclass

from transformers import OlmoeConfig, PreTrainedTokenizerFast

from expert_condenser.errors import TrainingError
from expert_condenser.testbed.tokenizer import VOCABULARY_SIZE


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe of a base model; the defaults are the first base's. Tokens seen = steps x rows x row_length."""

    steps: int = 2800
    rows: int = 32
    row_length: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    final_learning_rate_share: float = 0.02
    weight_decay: float = 0.1
    router_aux_loss_coef: float = 0.01
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 100
    num_experts: int = 24
    top_k: int = 4
    intermediate_size: int = 80
    norm_topk_prob: bool = False
    facts: float = 0.0
    """Share of the documents that are facts."""
    pool_sizes: tuple[int, int] | None = None
    """Smallest and largest P of document pools; None is ordinary routing, with transformers' balancing loss."""
    pools_by_excess: bool = False
    """Whether a pool is ranked by the excess over the batch's mean probability."""
    outside_loss_coef: float = 0.0
    """Weight of the routers' loss for probability outside of the pools; the routers are used without pools later."""
    shards: int = 1
    """Parts of the rows, each computed by a thread of its own; the balancing loss is over a part."""

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        if self.rows % self.shards:
            raise TrainingError(f"rows are divided equally among shards; got {self.rows} rows, {self.shards} shards")
        if not 0 <= self.facts < 1:
            raise TrainingError(f"facts is a share of the documents, from 0 to below 1; got {self.facts}")
        smallest, largest = self.pool_sizes or (self.top_k, self.num_experts)
        if not self.top_k <= smallest <= largest <= self.num_experts:
            raise TrainingError(
                f"a pool has {self.top_k} (top_k) to {self.num_experts} (num_experts) experts; got {self.pool_sizes}"
            )


RECIPES = {
    "v1": PretrainConfig(),
    "v2": PretrainConfig(
        steps=5500,
        final_learning_rate_share=0.25,
        num_experts=48,
        top_k=6,
        intermediate_size=48,
        facts=0.5,
        router_aux_loss_coef=0.02,
        pool_sizes=(6, 12),
        pools_by_excess=True,
        outside_loss_coef=0.2,
        shards=2,
    ),
}
"""The first embedded base, and the one whose experts specialise and hold facts."""


def base_config(tokenizer: PreTrainedTokenizerFast, recipe: PretrainConfig) -> OlmoeConfig:
    """Five layers of width 160: 5.3 M parameters with the first recipe, 6.2 M with the second."""
    return OlmoeConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=160,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        num_experts=recipe.num_experts,
        num_experts_per_tok=recipe.top_k,
        norm_topk_prob=recipe.norm_topk_prob,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        output_router_logits=recipe.pool_sizes is None,
        router_aux_loss_coef=recipe.router_aux_loss_coef,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def learning_rate(step: int, recipe: PretrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate_share` of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    floor = recipe.final_learning_rate_share
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
