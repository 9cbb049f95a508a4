"""What the loss would be, to first order, had a token's experts been others.

    U_i = -mean_x 1[i not chosen] (S_K / K) <dL/dy, E_i(x) - y / S_K>

Expert i comes in with the mean weight of the chosen, S_K / K, and their output y gives way by as much, so that the sum
of the weights stays S_K. U_i above 0: its presence would lower the loss. One dense pass: dL/dy from one backward pass,
then the product of every expert's output with it, as DenseMixer computes it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from expert_condenser.functional.routing import count_usage
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.dense_mixture import check_mixture, dense_products
from expert_condenser.moe.handover import Choice
from expert_condenser.moe.layers import MoELayer, moe_layers
from expert_condenser.moe.probe import Batch, in_evaluation, shares_of_loss


class Utilities(NamedTuple):
    """`U_i`, and how many tokens chose expert i, on the same rows."""

    utility: Float64[Tensor, "L E"]
    counts: Int[Tensor, "L E"]


def utilities_from(
    products: Float[Tensor, "T E"],
    own: Float[Tensor, " T"],
    weights: Float[Tensor, "T S"],
    chosen: Bool[Tensor, "T E"],
) -> Float64[Tensor, " E"]:
    """`-sum_x 1[i not chosen] (S_K / K) (products_i - own / S_K)` over the tokens.

    `products` are `<dL/dy, E_i(x)>`, `own` is `<dL/dy, y>`, and S_K is the sum of a token's weights. A token without
    weight adds nothing.
    """
    mass = weights.double().sum(dim=-1, keepdim=True)
    mean = own.double()[:, None] / torch.where(mass == 0, 1.0, mass)
    change = mass / weights.shape[-1] * (products.double() - mean)
    return -change.masked_fill(chosen, 0.0).sum(dim=0)


def expert_utilities(model: Any, batches: Sequence[Batch]) -> Utilities:
    """`U_i` of every expert for the mean nll of the learnt tokens; the mean over x is over all tokens but padding.

    Experts that are the identity get 0. Raises `UnsupportedModelError` where the output of the experts is no sum
    weighed by scores.
    """
    layers = moe_layers(model)
    check_mixture(layers)
    shape = len(layers), layers[0].num_experts
    found = Utilities(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int64))
    tokens = 0
    with in_evaluation(model), torch.enable_grad():
        seen = [_Seen(layer) for layer in layers]
        try:
            for batch, loss in shares_of_loss(model, batches):
                gradients = torch.autograd.grad(loss, [each.output for each in seen])
                real = batch.attention_mask.reshape(-1) != 0
                tokens += int(real.sum())
                for index, gradient in enumerate(gradients):
                    seen[index].add_to(found, index, gradient, real)
        finally:
            for each in seen:
                each.stop()
    return found._replace(utility=found.utility / max(tokens, 1))


class _Seen:
    """What one layer did in the last forward."""

    choice: Choice
    hidden: Tensor
    output: Tensor

    def __init__(self, layer: MoELayer) -> None:
        self.layer = layer
        hook = layer.experts.register_forward_hook(self._keep)
        self._stops: tuple[Callable[[], Any], ...] = (hook.remove, on_choice(layer, partial(setattr, self, "choice")))

    def _keep(self, experts: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self.hidden = args[0].reshape(-1, args[0].shape[-1]).detach()
        self.output = output if output.requires_grad else output.detach().requires_grad_()
        return self.output

    @torch.no_grad()
    def add_to(self, found: Utilities, index: int, gradient: Tensor, real: Tensor) -> None:
        layer, (weights, indices) = self.layer, (self.choice.weights, self.choice.indices)
        real = real.to(indices.device)
        gradient, output = (x.reshape(len(indices), -1) for x in (gradient, self.output))
        identity = layer.num_experts - 1 if layer.num_weighted < layer.num_experts else None
        products = dense_products(layer.experts, self.hidden, gradient, layer.num_experts, indices.shape[-1], identity)
        chosen = torch.zeros(products.shape, dtype=torch.bool, device=products.device).scatter(-1, indices, True)
        own = (gradient.double() * output.double()).sum(dim=-1)
        utility = utilities_from(products[real], own[real], weights[real], chosen[real])
        utility[layer.num_weighted :] = 0.0
        found.utility[index] += utility.cpu()
        found.counts[index] += count_usage(indices[real], layer.num_experts).cpu()

    def stop(self) -> None:
        for stop in self._stops:
            stop()
