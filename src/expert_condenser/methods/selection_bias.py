"""What `loss_free`, `bias_only` and `condenser` share: a selection bias that moves once per optimizer step."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from expert_condenser.errors import RoutingError, TrainingError
from expert_condenser.functional.bias import BiasRule, annealing, update_bias
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.methods.base import Method, RouterConfig

DECAY = 0.01
"""lambda of `bias_rule: proportional`: a bias that is pushed the same way all the time ends at 100 steps of gamma."""


@dataclass(frozen=True)
class SelectionBiasConfig(RouterConfig):
    """gamma, and the switches of the routing."""

    variants: ClassVar[tuple[str, ...]] = ("bias_rule", "bias_decay", "bias_anneal")

    bias_step: float = field(
        default=1e-3,
        metadata={"help": "gamma of the selection bias, per optimizer step (phase 1); gamma x steps is what counts."},
    )
    routing_preset: str = field(default="paper", metadata={"help": "'paper', or 'reference' (the authors' release)."})
    budget: str | None = field(default=None, metadata={"help": "'shared' (K slots), 'additive' (K + R), or 'recycle'."})
    bias_space: str | None = field(default=None, metadata={"help": "'logit' or 'score'."})
    bias_in_weights: bool | None = field(default=None, metadata={"help": "Whether the gate weights see the bias."})
    usage: str | None = field(default=None, metadata={"help": "'count' or 'mass': what the bias rule sees."})
    bias_center: str | None = field(default=None, metadata={"help": "'none' or 'mean'."})
    bias_clip: float | None = field(default=None, metadata={"help": "Bound on |bias|; 0.5 emulates the authors' bf16."})
    bias_rule: str | None = field(
        default=None,
        metadata={
            "help": "'proportional': a step is gamma tanh((u - mean) / mean); None: gamma sign.",
        },
    )
    bias_decay: float | None = field(
        default=None,
        metadata={
            "help": "lambda: the share of the bias that every proportional step takes off; 0.01.",
        },
    )
    bias_anneal: bool | None = field(
        default=None,
        metadata={"help": "false: a proportional bias is not led to 0 by the end of the last phase."},
    )

    def __post_init__(self) -> None:
        """Raise `RoutingError` or `TrainingError` where the switches have no meaning."""
        super().__post_init__()
        self.routing()
        if self.bias_rule not in (None, "proportional"):
            raise TrainingError(f"bias_rule is 'proportional', or left out: the sign; got {self.bias_rule!r}")
        if self.bias_rule is None and (self.bias_decay, self.bias_anneal) != (None, None):
            raise TrainingError("bias_decay and bias_anneal are of bias_rule 'proportional': set it, or leave them out")
        if self.bias_decay is not None and not 0 <= self.bias_decay < 1:
            raise TrainingError(f"bias_decay is a share in [0, 1); got {self.bias_decay}")

    def routing(self) -> RoutingConfig:
        """The switches as a `RoutingConfig`."""
        switches: dict[str, Any] = {
            "preset": self.routing_preset,
            "budget": self.budget,
            "bias_space": self.bias_space,
            "bias_in_weights": self.bias_in_weights,
            "usage": self.usage,
            "bias_center": self.bias_center,
            "bias_clip": self.bias_clip,
            **self.condenser_switches(),
        }
        if self.budget == "shared":
            switches["duplicates"] = False  # of the preset `reference`, which has them, only the budget was changed
        return RoutingConfig(**switches)

    def condenser_switches(self) -> dict[str, Any]:
        """Those that are about condensers, which a method of this kind may have."""
        return {}


def meeting_place(devices: set[torch.device]) -> torch.device:
    """Where tensors of these devices are computed with together: on the CPU where they are several, or one is MPS.

    MPS has no float64, which gate mass is summed in.
    """
    (*others, device) = devices
    return torch.device("cpu") if others or device.type == "mps" else device


class SelectionBias(Method):
    """Move every layer's bias by one step of `rule` after each optimizer step."""

    Config = SelectionBiasConfig
    rule: BiasRule

    @property
    def bias_step(self) -> float:
        """gamma of this phase."""
        return self.config.bias_step

    @property
    def routing(self) -> RoutingConfig:
        """The switches of the config."""
        return self.config.routing()

    @torch.no_grad()
    def step(self, usage: Tensor) -> None:
        """`usage` (L, E): int64 counts or float64 mass, on any device."""
        biases = self._biases()
        updated = update_bias(
            biases,
            usage.to(biases.device),
            self.bias_step,
            self.rule,
            **self._direction(),
            competes=self.competes(usage).to(biases.device),
            center=self.routing.bias_center,  # type: ignore[arg-type]
            clip=self.config.bias_clip,
        )
        for layer, bias in zip(self.layers, updated, strict=True):
            layer.router.selection_bias.copy_(bias)

    def _direction(self) -> dict[str, Any]:
        """How far a step goes: the sign by default; under `proportional` the bias also decays, and is led to 0."""
        if self.config.bias_rule is None:
            return {}
        keep = annealing(*self.clock()) if self.anneals else 1.0
        decay = DECAY if self.config.bias_decay is None else self.config.bias_decay
        return {"direction": "proportional", "decay": decay, "keep": keep}

    @property
    def anneals(self) -> bool:
        """Whether the bias is led to 0 by the end of this phase, which is then the last one."""
        wanted = self.config.bias_rule is not None and self.config.bias_anneal is not False
        return wanted and self.phase == self.phases[-1]

    def metrics(self) -> dict[str, float]:
        """`bias_range`: the mean over layers of max - min of the bias, in logits."""
        biases = self._biases()
        return {"bias_range": (biases.amax(-1) - biases.amin(-1)).mean().item()}

    def _biases(self) -> Tensor:
        """`(L, E)`, where all of them can be computed with; raises `RoutingError` where one is not in memory."""
        biases = [layer.router.selection_bias for layer in self.layers]
        if gone := [layer.name for layer in self.layers if layer.router.selection_bias.is_meta]:
            raise RoutingError(  # what is written to `meta` is lost without an error
                f"a bias moves in memory, and that of {gone[0]} is offloaded; leave offload_buffers out of the hooks"
            )
        device = meeting_place({bias.device for bias in biases})
        return torch.stack([bias.to(device) for bias in biases])

    def competes(self, usage: Tensor) -> Tensor:
        """`(L, E)` bool: whose bias moves, which is not that of condensers; recycled ones compete as others do."""
        competes = torch.ones(usage.shape, dtype=torch.bool)
        if self.routing.budget == "recycle":
            return competes
        for row, layer in zip(competes, self.layers, strict=True):
            row[layer.router.condenser_ids.cpu()] = False
        return competes
