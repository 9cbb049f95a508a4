"""Does the auxiliary loss reach the routers? A test at the start of a run, on the model as it will train."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import MoELayer

ROWS, LENGTH = 2, 16
_FIELDS = ("output_router_logits", "router_aux_loss_coef", "num_experts")


def check_auxiliary_coefficient(model: Any, args: Any, wanted: float) -> None:
    """Raise `TrainingError` unless the trainer weighs the auxiliary loss as the method says.

    TRL's `router_aux_loss_coef` is the model's own where it is None. A bare Trainer goes by what the model was
    built with, and multiplies by the accumulation steps: there the loss has to be off.
    """
    config = model.config.get_text_config()
    own = getattr(config, "router_aux_loss_coef", 0.0)
    if not hasattr(args, "router_aux_loss_coef"):
        if wanted or getattr(config, "output_router_logits", False):
            raise TrainingError(
                "the auxiliary loss is weighed by TRL's SFTTrainer; a bare Trainer would multiply it by the "
                "accumulation steps. Take SFTTrainer for sft_aux, and output_router_logits=False for other methods."
            )
        return
    found = own if args.router_aux_loss_coef is None else args.router_aux_loss_coef
    if found != wanted:
        raise TrainingError(
            f"the method weighs the auxiliary loss by {wanted}, and this trainer by {found}; set router_aux_loss_coef "
            f"of SFTConfig to {wanted}"
        )


def lend_fields(config: Any, layers: Sequence[MoELayer]) -> None:
    """Give a config the two numbers that TRL's auxiliary loss reads, where the family names them otherwise."""
    for name, value in (("num_experts", layers[0].num_experts), ("num_experts_per_tok", layers[0].top_k)):
        if not hasattr(config, name):
            setattr(config, name, value)


def restore_fields(config: Any, base: Any) -> None:
    """Undo what TRL and `lend_fields` changed: the auxiliary loss is the training's, not the saved model's."""
    for name in _FIELDS:
        if hasattr(base, name):
            setattr(config, name, getattr(base, name))
        elif hasattr(config, name):
            delattr(config, name)


def check_auxiliary_gradient(model: Any, layers: Sequence[MoELayer]) -> None:
    """Raise `TrainingError` unless the gradient of the auxiliary loss is above zero in the router of every layer.

    Reentrant checkpointing runs the layers without a graph, so that a loss on the router logits trains nothing.
    """
    groups = [_trainable(model, layer) for layer in layers]
    loss = _auxiliary_loss(model, layers)
    silent = [
        layer.name
        for layer, group in zip(layers, groups, strict=True)
        if not any(gradient is not None and bool(gradient.any()) for gradient in _gradients(loss, group))
    ]
    if silent:
        raise TrainingError(
            f"the auxiliary loss has to reach every router; it has no gradient in {len(silent)} of {len(layers)} "
            f"({silent[0]}, ...). Reentrant gradient checkpointing has this effect (set use_reentrant to false), and "
            "so have routers that do not train."
        )


def _auxiliary_loss(model: Any, layers: Sequence[MoELayer]) -> torch.Tensor:
    config = model.config.get_text_config()
    ids = torch.arange(ROWS * LENGTH, device=model.device).view(ROWS, LENGTH) % config.vocab_size
    training, counters = model.training, [copy.copy(layer.router.counter) for layer in layers]
    try:
        with torch.random.fork_rng():
            output = model.train()(input_ids=ids, output_router_logits=True, use_cache=False)
    finally:
        model.train(training)
        for layer, counter in zip(layers, counters, strict=True):
            layer.router.counter = counter
    if getattr(output, "router_logits", None) is None:
        raise TrainingError(f"the auxiliary loss needs the router logits, which {type(model).__name__} does not return")
    loss: torch.Tensor = load_balancing_loss_func(output.router_logits, layers[0].num_experts, layers[0].top_k)
    return loss


def _trainable(model: Any, layer: MoELayer) -> list[torch.Tensor]:
    prefix = layer.gate + "."
    return [p for name, p in model.named_parameters() if name.startswith(prefix) and p.requires_grad]


def _gradients(loss: torch.Tensor, parameters: list[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    if not loss.requires_grad or not parameters:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
