"""How much a training computes: the field's 6 N per token, for the parameters that a token passes."""

from typing import Any

from expert_condenser.planning.sizes import Sizes


def flops_per_token(sizes: Sizes, config: Any, length: int, mixer: str | None, *, checkpointing: bool) -> int:
    """FLOPs of one token's forward and backward.

    A pass through N parameters is 2 N; the backward is one for the input, and one for the weights that train. Under
    checkpointing the forward runs twice. DenseMixer's `lean` adds a pass through all routed experts, its `plain` runs
    them in all passes.
    """
    active = sizes.active if mixer != "plain" else sizes.total
    learns = active * min(1.0, sizes.trainable / sizes.total)
    passes = 2 * active * (2 if checkpointing else 1) + 2 * active + 2 * learns
    dense = 2 * sizes.routed if mixer == "lean" else 0
    return round(passes + dense + _attention(config, length) * (8 if checkpointing else 6) / 6)


def _attention(config: Any, length: int) -> int:
    """Scores and sums over half of the length (causal): `6 L (heads x width) length`, forward and backward."""
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 1))
    width = getattr(text, "head_dim", None) or getattr(text, "v_head_dim", None) or text.hidden_size // heads
    return 6 * int(text.num_hidden_layers) * heads * int(width) * length
