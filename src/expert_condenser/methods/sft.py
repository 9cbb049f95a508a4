"""`sft`: plain supervised fine-tuning, without auxiliary loss. Routing is observed and left alone."""

from torch import nn

from expert_condenser.errors import TrainingError
from expert_condenser.methods.base import Method, MethodConfig
from expert_condenser.moe.attach import set_top_k


class Sft(Method):
    """Every weight trains; the routers count what they choose.

    With `top_k` every token gets that many experts: K + R of them are the control for condensers that are
    added to the budget.
    """

    name = "sft"
    summary = "plain fine-tuning, auxiliary-loss coefficient 0"
    paper = "the baseline"
    options = frozenset({"router", "top_k"})

    def __init__(self, config: MethodConfig | None = None, phase: str | None = None) -> None:
        super().__init__(config, phase)
        if self.config.top_k is not None and self.config.top_k < 1:
            raise TrainingError(f"top_k is a number of experts per token, at least 1; got {self.config.top_k}")

    def prepare(self, model: nn.Module) -> None:
        """Also set the number of experts per token."""
        if self.config.top_k is not None:
            set_top_k(model, self.config.top_k)
        super().prepare(model)
