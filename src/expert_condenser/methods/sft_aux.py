"""`sft_aux`: fine-tuning with the load-balancing auxiliary loss (Switch Transformers, arXiv 2101.03961)."""

import math
from dataclasses import dataclass, field

from torch import nn

from expert_condenser.errors import TrainingError, UnsupportedModelError
from expert_condenser.methods.base import Method, RouterConfig
from expert_condenser.moe.layers import family_name
from expert_condenser.moe.parameters import router_trains


@dataclass(frozen=True)
class SftAuxConfig(RouterConfig):
    """The options of `sft_aux`."""

    aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Coefficient of the auxiliary loss; None: that of the model's config."}
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        super().__post_init__()
        if self.aux_loss_coef is not None and not 0 < self.aux_loss_coef < math.inf:
            raise TrainingError(
                f"aux_loss_coef is a number above 0 ('sft' is without the loss); got {self.aux_loss_coef}"
            )


class SftAux(Method):
    """Loss = nll + coefficient x auxiliary loss, `E sum_i f_i P_i` over the real tokens of a micro-batch.

    The loss itself is transformers' `load_balancing_loss_func`, weighed by TRL.
    """

    Config = SftAuxConfig
    name = "sft_aux"
    summary = "plain fine-tuning with the load-balancing auxiliary loss"
    paper = "arXiv 2101.03961"

    def prepare(self, model: nn.Module) -> None:
        """Also find the coefficient: the option's, or the model's own."""
        super().prepare(model)
        if not router_trains(model, self.layers):
            raise TrainingError(
                "the auxiliary loss acts on the routers, and none of them trains: leave router out, or with an adapter "
                "set router='lora'"
            )
        config = model.config.get_text_config()  # type: ignore[operator, union-attr]
        if not hasattr(config, "output_router_logits"):
            raise UnsupportedModelError(
                f"the auxiliary loss needs a model that returns its router logits; {family_name(model)} does not "
                "(no output_router_logits in its config)"
            )
        own = getattr(config, "router_aux_loss_coef", 0.0)
        self.router_aux_loss_coef = self.config.aux_loss_coef or own
        if not self.router_aux_loss_coef > 0:
            raise TrainingError(
                f"the auxiliary loss needs a coefficient; {family_name(model)} has none of its own "
                f"(router_aux_loss_coef: {own}). Set aux_loss_coef."
            )
