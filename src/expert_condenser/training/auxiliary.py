"""Does the auxiliary loss reach the routers? A test at the start of a run, on the model as it will train."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from expert_condenser.errors import TrainingError
from expert_condenser.models import MoELayer, outermost

ROWS, LENGTH = 2, 16


def check_auxiliary_coefficient(model: Any, args: Any, wanted: float) -> None:
    """Raise `TrainingError` unless the trainer weighs the auxiliary loss as the method says.

    TRL's `router_aux_loss_coef` is the model's own where it is None; a bare Trainer goes by the model's config.
    """
    config = model.config.get_text_config()
    own = getattr(config, "router_aux_loss_coef", 0.0)
    if hasattr(args, "router_aux_loss_coef"):
        found = own if args.router_aux_loss_coef is None else args.router_aux_loss_coef
    else:
        found = own if getattr(config, "output_router_logits", False) else 0.0
    if found != wanted:
        raise TrainingError(
            f"the method weighs the auxiliary loss by {wanted}, and this trainer by {found}; set router_aux_loss_coef "
            "in SFTConfig, or output_router_logits and router_aux_loss_coef in the config of the model"
        )


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
    with torch.random.fork_rng():
        logits = model.train()(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
    model.train(training)
    for layer, counter in zip(layers, counters, strict=True):
        layer.router.counter = counter
    loss: torch.Tensor = load_balancing_loss_func(logits, layers[0].num_experts, layers[0].top_k)
    return loss


def _trainable(model: Any, layer: MoELayer) -> list[torch.Tensor]:
    prefix = outermost(layer.name) + "."
    return [p for name, p in model.named_parameters() if name.startswith(prefix) and p.requires_grad]


def _gradients(loss: torch.Tensor, parameters: list[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    if not loss.requires_grad or not parameters:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
