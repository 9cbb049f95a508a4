"""Train some rows of the routers and no other: those of the condensers, say.

A row of a router's weight `(E, D)`, and of its bias `(E,)` where it has one, is one expert's. The others get a gradient
of zero, so that clipping and the optimizer's moments do not see them, and are put back after every step, since weight
decay moves what has no gradient.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import MoELayer
from expert_condenser.moe.parameters import freeze, parameter_groups


class RouterRows:
    """The rows of a model's routers that stay."""

    def __init__(self) -> None:
        self._kept: list[StayingRows] = []

    def train(self, model: nn.Module, layers: Sequence[MoELayer], rows: Mapping[int, Sequence[int]]) -> None:
        """Freeze the routers but for the rows `{layer index: expert ids}`, in place.

        What a router has besides rows (a norm, a learnt factor) is frozen too. Raises `TrainingError` where no row
        would train: there are no condensers, or an adapter holds the routers.
        """
        groups = parameter_groups(model, layers)
        of_routers = {n: p for n, p in model.named_parameters() if groups[n] == "router" and p.requires_grad}
        for index, layer in enumerate(layers):
            own = [name for name in of_routers if name.startswith(f"{layer.gate}.")]
            with_rows = [name for name in own if rows.get(index) and len(of_routers[name]) == layer.num_experts]
            if rest := [name for name in own if name not in with_rows]:
                freeze(model, rest)
            for name in with_rows:
                self._kept.append(StayingRows(of_routers[name], rows[index]))
        if not self._kept:
            raise TrainingError(
                "condenser_rows_only trains the condensers' rows of the routers; there are no condensers, or no router "
                "trains (with an adapter none does): leave it out"
            )

    @torch.no_grad()
    def restore(self) -> None:
        """Put the rows that stay back, after an optimizer step."""
        for rows in self._kept:
            rows.restore()


class StayingRows:
    """The rows of one parameter that stay as they are when it first gets a gradient, which a resume comes before."""

    def __init__(self, parameter: nn.Parameter, trained: Sequence[int]) -> None:
        self.parameter = parameter
        self.stays = torch.ones(len(parameter), dtype=torch.bool, device=parameter.device)
        self.stays[list(trained)] = False
        self.values: Tensor | None = None
        parameter.register_hook(self._without_them)  # type: ignore[no-untyped-call]

    def _without_them(self, gradient: Tensor) -> Tensor:
        stays = self.stays.to(gradient.device)
        if self.values is None:
            self.values = self.parameter.detach()[stays].clone()
        return gradient.masked_fill(stays.view(-1, *[1] * (gradient.dim() - 1)), 0.0)

    def restore(self) -> None:
        """Put them back; nothing to do where there was no gradient yet."""
        if self.values is not None:
            self.parameter[self.stays.to(self.parameter.device)] = self.values
