"""Rows of tokens for tiny models, and models that were made by hand."""

import torch

from expert_condenser import moe_layers
from expert_condenser.data.tokens import Tokens
from expert_condenser.testing import tiny_batch, tiny_model


def rows(count=6, length=10, seed=0):
    """Rows of unequal length, whose last three tokens are the answer."""
    ids = tiny_batch(count, length, seed=seed).tolist()
    return [Tokens(row[: length - at % 3], [(length - at % 3 - 3, length - at % 3)]) for at, row in enumerate(ids)]


def copy_expert(model, layer, source, target, scale=1.0):
    """Give one expert the weights of another; `scale` is on its output."""
    experts = moe_layers(model)[layer].experts
    with torch.no_grad():
        experts.gate_up_proj[target] = experts.gate_up_proj[source]
        experts.down_proj[target] = experts.down_proj[source] * scale


def equal_experts(name):
    """A model in which all experts of a layer are one."""
    model = tiny_model(name)
    for layer in range(3):
        for expert in range(1, 8):
            copy_expert(model, layer, 0, expert)
    return model


def two_kinds_of_tokens():
    """One layer, one expert per token: token 5 goes to expert 0 and token 9 to expert 1, wherever they stand."""
    model = tiny_model(num_hidden_layers=1, num_experts_per_tok=1)
    (layer,) = moe_layers(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        directions = model.model.embed_tokens.weight[[5, 9]]
        directions -= directions.mean(0)
        layer.router.weight.zero_()
        layer.router.weight[:2] = 50 * directions
    return model
