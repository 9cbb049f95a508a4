"""Are rarely used experts starved of gradient, and what does the optimizer make of it (paper, §3.1 and §6.2)?

An expert that a token chooses with probability p gets a gradient in about p S of S one-token steps (Θ(S p)); with many
tokens per step it gets one in nearly all, but a smaller one. Here the routed experts take S steps under SGD, and from
the same start under AdamW, and per expert there are

    p            its share of selections x K, over all tokens: the probability that a token chooses it
    frequency    share of the steps in which its gradient was not zero
    gradient     mean over steps of ‖∂L/∂W_i‖₂
    moved        ‖ΔW_i‖₂ after S steps, for each optimizer

and per optimizer the slope of log moved on log p within layers. SGD adds the gradients up, so that its slope is near
that of the gradients; Adam divides by their size, which should take most of the starvation away (*ours*).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from expert_condenser.analysis.rows import batches_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.functional.routing import count_usage
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.handover import Choice
from expert_condenser.moe.layers import MoELayer, decoder_depth, moe_layers, norms_per_expert
from expert_condenser.moe.probe import Batch, in_evaluation, shares_of_loss

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
}
DECILES = 10


@dataclass(frozen=True)
class GradientFlow:
    """Of one model over S steps."""

    name: str
    layers: tuple[int, ...]
    steps: int
    usage: Float64[Tensor, "L E"]
    """p, under the first optimizer."""
    frequency: Float64[Tensor, "L E"]
    gradient: Float64[Tensor, "L E"]
    moved: dict[str, Float64[Tensor, "L E"]]
    """By optimizer."""

    def slope(self, optimizer: str) -> float:
        """Slope of log ‖ΔW_i‖ on log p_i; each layer's mean is taken off first. Experts without usage are left out."""
        return slope_within(self.usage, self.moved[optimizer])

    def by_decile(self) -> list[dict[str, float]]:
        """Means over the experts of each decile of usage within their layer, the least used first."""
        ranks = self.usage.argsort(1).argsort(1).double() / self.usage.shape[1]
        decile = (ranks * DECILES).long().clamp(max=DECILES - 1)
        tables = {"usage": self.usage, "frequency": self.frequency, "gradient": self.gradient}
        tables |= {f"moved_{name}": table for name, table in self.moved.items()}
        return [
            {"decile": float(at), **{name: table[decile == at].mean().item() for name, table in tables.items()}}
            for at in range(DECILES)
            if (decile == at).any()
        ]


def slope_within(usage: Float64[Tensor, "L E"], values: Float64[Tensor, "L E"]) -> float:
    """Least squares of log `values` on log `usage`, with an intercept per layer, where both are above 0.

    NaN where usage does not differ within any layer.
    """
    kept = (usage > 0) & (values > 0)
    x, y = (torch.where(kept, table.clamp(min=1e-300).log(), 0.0) for table in (usage, values))
    count = kept.sum(1, keepdim=True).clamp(min=1)
    x, y = (torch.where(kept, table - table.sum(1, keepdim=True) / count, 0.0) for table in (x, y))
    return float((x * y).sum() / (x * x).sum())


def gradient_flow(
    name: str,
    model: Any,
    rows: Sequence[Tokens],
    *,
    batch_size: int = 8,
    rates: Mapping[str, float] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> GradientFlow:
    """A step per batch of the rows, under each optimizer; only routed experts move, and they are put back.

    `rates` are the learning rates (sgd 0.1, adamw 1e-4). Raises `AnalysisError` where there are fewer than two batches.
    """
    batches = batches_of(rows, batch_size, model.device)
    if len(batches) < 2:
        raise AnalysisError(
            f"gradients are followed over two steps or more; {len(rows)} rows are one: lower batch_size"
        )
    layers = moe_layers(model)
    rates = {"sgd": 0.1, "adamw": 1e-4, **(rates or {})}
    trains = {id(p) for layer in layers for p in layer.experts.parameters() if p.is_floating_point()}
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    start = [[p.detach().clone() for p in layer.experts.parameters()] for layer in layers]
    found, moved = None, {}
    try:
        for parameter in asked:
            parameter.requires_grad_(id(parameter) in trains)
        for optimizer, make in OPTIMIZERS.items():
            steps = _Steps(layers)
            with in_evaluation(model), torch.enable_grad():
                steps.take(model, batches, make([p for p in asked if p.requires_grad], lr=rates[optimizer]), advance)
            moved[optimizer] = _distances(layers, start)
            found = found or steps
            _put_back(layers, start)
    finally:
        _put_back(layers, start)
        for parameter, before in asked.items():
            parameter.requires_grad_(before)
            parameter.grad = None
    assert found is not None
    depths = tuple(map(decoder_depth, layers))
    return GradientFlow(name, depths, len(batches), found.usage(), *found.gradients(len(batches)), moved)


class _Steps:
    """The steps of one optimizer, and what was seen on the way."""

    def __init__(self, layers: Sequence[MoELayer]) -> None:
        self.layers = layers
        shape = len(layers), layers[0].num_experts
        self.counts = torch.zeros(shape, dtype=torch.int64)
        self.touched, self.norms = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.tokens = 0

    def take(
        self, model: Any, batches: Sequence[Batch], optimizer: torch.optim.Optimizer, advance: Callable[[int], None]
    ) -> None:
        for batch in batches:
            mask = batch.attention_mask.reshape(-1)
            stops = [on_choice(layer, partial(self._count, at, mask)) for at, layer in enumerate(self.layers)]
            try:
                ((_, loss),) = shares_of_loss(model, [batch])
            finally:
                for stop in stops:
                    stop()
            self.tokens += int((mask != 0).sum())
            loss.backward()  # type: ignore[no-untyped-call]
            for at, layer in enumerate(self.layers):
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.experts.parameters()]
                norms = norms_per_expert(layer, gradients).double().cpu()
                self.norms[at] += norms
                self.touched[at] += (norms > 0).double()
            optimizer.step()
            optimizer.zero_grad()
            advance(1)

    def _count(self, at: int, mask: Tensor, choice: Choice) -> None:
        indices = choice.indices
        self.counts[at] += count_usage(indices, self.counts.shape[1], mask.to(indices.device)).cpu()

    def usage(self) -> Float64[Tensor, "L E"]:
        return self.counts.double() / self.tokens

    def gradients(self, steps: int) -> tuple[Tensor, Tensor]:
        return self.touched / steps, self.norms / steps


def _distances(layers: Sequence[MoELayer], start: Sequence[Sequence[Tensor]]) -> Float64[Tensor, "L E"]:
    rows = [
        norms_per_expert(layer, [p.detach() - s for p, s in zip(layer.experts.parameters(), before, strict=True)])
        for layer, before in zip(layers, start, strict=True)
    ]
    return torch.stack([row.double().cpu() for row in rows])


@torch.no_grad()
def _put_back(layers: Sequence[MoELayer], start: Sequence[Sequence[Tensor]]) -> None:
    for layer, before in zip(layers, start, strict=True):
        for parameter, value in zip(layer.experts.parameters(), before, strict=True):
            parameter.copy_(value)
