"""What a method is: five verbs, its phases, and the options that methods share.

`prepare(model)` before the optimizer is made, `update(usage)` once per optimizer step, `metrics()`
when a step is logged, `state_dict()` / `load_state_dict()` for a resume.
"""

from abc import ABC
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from expert_condenser.errors import TrainingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import ROUTER_MODES, RouterMode, is_adapter, set_router_mode
from expert_condenser.moe.router import PolicyRouter


@dataclass
class MethodConfig:
    """The options of the methods; a recipe may set those that its method uses (`Method.options`)."""

    router: str | None = field(
        default=None,
        metadata={"help": "'train', 'freeze', or 'lora' (with an adapter); None: train, and freeze with an adapter."},
    )
    top_k: int | None = field(
        default=None, metadata={"help": "Experts per token, K + R as the control of budget='additive'; None: K."}
    )
    aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Coefficient of the auxiliary loss; None: that of the model's config."}
    )
    top_p: float = field(default=0.2, metadata={"help": "ESFT trains the smallest set of experts with this score."})
    expert_config: str | None = field(
        default=None, metadata={"help": "expert_cfg.json with ESFT's experts; None: score the training data first."}
    )
    score_rows: int = field(default=128, metadata={"help": "Rows of the training data that ESFT scores experts on."})
    shared_experts: bool = field(default=False, metadata={"help": "ESFT also trains the shared experts."})
    non_expert_modules: bool = field(
        default=False, metadata={"help": "ESFT also trains all that is no expert: routers, attention, embeddings."}
    )
    mixer: str = field(
        default="lean", metadata={"help": "DenseMixer's implementation: 'lean' (memory O(T D)) or 'plain' (O(T E D))."}
    )
    bias_step: float = field(
        default=1e-3,
        metadata={"help": "gamma of the selection bias, per optimizer step (phase 1); gamma x steps is what counts."},
    )
    bias_step_condense: float = field(
        default=5e-5, metadata={"help": "gamma of phase 2, while the condensers are active."}
    )
    num_condensers: str = field(
        default="2",
        metadata={
            "help": "Condensers per layer: '2', thirds of the stack '4/2/0', or 'gini:2' (2 per layer in the mean)."
        },
    )
    condenser_rule: str = field(
        default="lowest_bias", metadata={"help": "Who becomes a condenser: see expert_condenser.functional.selection."}
    )
    condensers_file: str | None = field(
        default=None, metadata={"help": "condensers.json of another run, for condenser_rule='explicit'."}
    )
    one_phase: bool = field(
        default=False,
        metadata={"help": "The condensers of condenser_rule='explicit' are active from the start, without phase 1."},
    )
    selection_seed: int = field(default=0, metadata={"help": "Seed of condenser_rule='random'."})
    routing_preset: str = field(default="paper", metadata={"help": "'paper', or 'reference' (the authors' release)."})
    budget: str | None = field(default=None, metadata={"help": "'shared' (K slots) or 'additive' (K + R slots)."})
    bias_space: str | None = field(default=None, metadata={"help": "'logit' or 'score'."})
    bias_in_weights: bool | None = field(default=None, metadata={"help": "Whether the gate weights see the bias."})
    usage: str | None = field(default=None, metadata={"help": "'count' or 'mass': what the bias rule sees."})
    bias_center: str | None = field(default=None, metadata={"help": "'none' or 'mean'."})
    bias_clip: float | None = field(default=None, metadata={"help": "Bound on |bias|; 0.5 emulates the authors' bf16."})

    def routing(self) -> RoutingConfig:
        """The switches as a `RoutingConfig`; raises `RoutingError` where they have no meaning."""
        switches: dict[str, Any] = {
            "preset": self.routing_preset,
            "budget": self.budget,
            "bias_space": self.bias_space,
            "bias_in_weights": self.bias_in_weights,
            "usage": self.usage,
            "bias_center": self.bias_center,
            "bias_clip": self.bias_clip,
        }
        if self.budget == "shared":
            switches["duplicates"] = False
        return RoutingConfig(**switches)


class Method(ABC):
    """One row of the paper's tables."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for a person who chooses a method."""
    paper: ClassVar[str]
    """Where the method was published."""
    trainable: ClassVar[str] = "every weight"
    """What trains, in words."""
    phases: ClassVar[tuple[str, ...]] = ("train",)
    """Trainings that the method has, one after the other; the epochs are divided equally among them."""
    options: ClassVar[frozenset[str]] = frozenset({"router"})
    """The fields of `MethodConfig` that this method uses."""
    default_router: ClassVar[RouterMode] = "train"
    """What becomes of the routers where the option `router` says nothing."""
    whole_weights: ClassVar[bool] = False
    """Whether the method works on whole weights only, not on those that FSDP2 or ZeRO-3 split over processes."""
    router_aux_loss_coef: float = 0.0

    def __init__(self, config: MethodConfig | None = None, phase: str | None = None) -> None:
        """`phase` is one of `phases`, the first by default."""
        self.config = config or MethodConfig()
        self.phase = phase or self.phases_of(self.config)[0]
        if self.phase not in self.phases:
            raise TrainingError(f"{self.name} has the phases {', '.join(self.phases)}; got {self.phase!r}")
        if self.config.router is not None and "router" not in self.options:
            raise TrainingError(f"{self.name} says itself what becomes of the routers; leave router out")
        if self.config.router not in (None, *ROUTER_MODES):
            raise TrainingError(f"router is one of {', '.join(ROUTER_MODES)}; got {self.config.router!r}")

    @classmethod
    def phases_of(cls, config: MethodConfig) -> tuple[str, ...]:
        """Those of `phases` that a run with this recipe has: all, unless an option leaves some out."""
        return cls.phases

    @property
    def routing(self) -> RoutingConfig | None:
        """The routing policy that the method attaches; None leaves routing alone and only counts."""
        return None

    def prepare(self, model: nn.Module) -> None:
        """Make the model ready for this phase, in place, before an optimizer is made for it.

        Attaches the policy, or the counting; a model that has it already (a resumed one) keeps its bias.
        Then sets what trains.
        """
        self.layers = moe_layers(model)
        if not isinstance(self.layers[0].router, PolicyRouter):
            attach(model, self.routing)
            self.layers = moe_layers(model)
        found = self.layers[0].router.policy
        if found != self.routing:
            raise TrainingError(
                f"a model keeps the routing that it was trained with: {found}; asked for {self.routing}"
            )
        self.select_trainable(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise TrainingError(f"{self.name} with these options trains no parameter of the model")

    def select_trainable(self, model: nn.Module) -> None:
        """Set `requires_grad` of every parameter; here, that of the routers by the option `router`."""
        adapted = any(is_adapter(name) for name, _ in model.named_parameters())
        set_router_mode(model, self.layers, self.config.router or ("freeze" if adapted else self.default_router))

    def update(self, usage: Tensor) -> None:  # noqa: B027 - a method without an update is complete
        """Act on the usage `(L, E)` of one optimizer step, summed over its micro-batches and processes."""

    def metrics(self) -> dict[str, float]:
        """The method's own numbers for the log of this step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beyond the model, as JSON; it goes into every checkpoint."""
        return {"method": self.name, "phase": self.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a checkpoint is of this method and phase; raises `TrainingError` otherwise."""
        own = self.state_dict()
        found = {key: state.get(key) for key in own}
        if found != own:
            raise TrainingError(f"a run goes on with the state it had: this one is {own}, the checkpoint has {found}")
