"""`sft`: plain supervised fine-tuning, without auxiliary loss. Routing is observed and left alone."""

from dataclasses import dataclass, field

from torch import nn

from expert_condenser.errors import TrainingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.methods.base import Method, RouterConfig
from expert_condenser.moe.attach import set_top_k


@dataclass(frozen=True)
class SftConfig(RouterConfig):
    """The options of `sft`."""

    top_k: int | None = field(
        default=None, metadata={"help": "Experts per token, K + R as the control of budget='additive'; None: K."}
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        super().__post_init__()
        if self.top_k is not None and self.top_k < 1:
            raise TrainingError(f"top_k is a number of experts per token, at least 1; got {self.top_k}")


class Sft(Method):
    """Every weight trains; the routers count what they choose.

    With `top_k` every token gets that many experts: K + R of them are the control for condensers that are
    added to the budget.
    """

    Config = SftConfig
    name = "sft"
    summary = "plain fine-tuning, auxiliary-loss coefficient 0"
    paper = "the baseline"
    keeps_routing = True

    @property
    def routing(self) -> RoutingConfig | None:
        """None, or that of a pruned model."""
        return self.kept

    def prepare(self, model: nn.Module) -> None:
        """Also set the number of experts per token."""
        if self.config.top_k is not None:
            set_top_k(model, self.config.top_k)
        super().prepare(model)
