"""What a method is: a frozen `Config` beside it, its phases, and eight verbs.

`calibrate(usage)` and `probe(model, batches)` if it asks for rows first; `prepare(model)` before the optimizer is made;
`step(usage)` once per optimizer step; `metrics()` when a step is logged; `artifacts(model)` for a person;
`state_dict()` and `load_state_dict()` for a resume.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from expert_condenser.errors import TrainingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import ROUTER_MODES, RouterMode, is_adapter, set_router_mode
from expert_condenser.moe.probe import Batch
from expert_condenser.moe.usage import Usage


@dataclass(frozen=True)
class Config:
    """The options of a method that has none. Others derive from it, and check themselves in `__post_init__`."""

    variants: ClassVar[tuple[str, ...]] = ()
    """Options that the help of a method only names."""

    @classmethod
    def of(cls, options: Any) -> "Config":
        """The options of this method among those of all methods (`MethodConfig`); None is the defaults."""
        if options is None or isinstance(options, cls):
            return options or cls()
        return cls(**{f.name: getattr(options, f.name) for f in fields(cls) if hasattr(options, f.name)})


@dataclass(frozen=True)
class RouterConfig(Config):
    """The option of every method that leaves open what becomes of the routers."""

    router: str | None = field(
        default=None,
        metadata={"help": "'train', 'freeze', or 'lora' (with an adapter); None: train, and freeze with an adapter."},
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` on another word."""
        if self.router not in (None, *ROUTER_MODES):
            raise TrainingError(f"router is one of {', '.join(ROUTER_MODES)}; got {self.router!r}")


class Method(ABC):
    """One row of the paper's tables."""

    Config: ClassVar[type[Config]] = RouterConfig
    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for a person who chooses a method."""
    paper: ClassVar[str]
    """Where the method was published."""
    trainable: ClassVar[str] = "every weight"
    """What trains, in words."""
    phases: ClassVar[tuple[str, ...]] = ("train",)
    """Trainings that the method has, one after the other; the epochs are divided equally among them."""
    default_router: ClassVar[RouterMode] = "train"
    """What becomes of the routers where the option `router` says nothing."""
    whole_weights: bool = False
    """Whether the method works on whole weights only, not on those that FSDP2 or ZeRO-3 split over processes."""
    all_experts: bool = False
    """Whether every expert runs on every token, which needs all of them in one process."""
    keeps_routing: ClassVar[bool] = False
    """Whether the method trains a pruned model that has a bias and condensers, and leaves both as they are."""
    kept: RoutingConfig | None = None
    """The routing of such a model."""
    router_aux_loss_coef: float = 0.0
    now: tuple[int, int] | None = None
    """Which optimizer step of how many is about to be acted on, from 1 on; whoever calls `step` may set it."""

    def __init__(self, config: Any = None, phase: str | None = None) -> None:
        """`config` is a `Config` of this method, or a `MethodConfig`; `phase` one of `phases`, the first by default."""
        self.config: Any = self.Config.of(config)
        self.phase = phase or self.phases_of(self.config)[0]
        if self.phase not in self.phases:
            raise TrainingError(f"{self.name} has the phases {', '.join(self.phases)}; got {self.phase!r}")

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The names of the options, in the order of `Config`."""
        return tuple(f.name for f in fields(cls.Config))

    @classmethod
    def phases_of(cls, config: Any) -> tuple[str, ...]:
        """Those of `phases` that a run with this recipe has: all, unless an option leaves some out."""
        return cls.phases

    @property
    def whole_start(self) -> bool:
        """Whether the method needs a whole model in every process until it is prepared, where ZeRO-3 could split it.

        Those need it that look at what the model does with rows first.
        """
        return bool(self.calibration_rows or self.probe_rows)

    @property
    def routing(self) -> RoutingConfig | None:
        """The routing policy that the method attaches; None leaves routing alone and only counts."""
        return None

    @property
    def one_schedule(self) -> bool:
        """Whether the learning rate runs over all phases once, instead of over each of them."""
        return False

    def learning_rate_factors(self, model: nn.Module) -> dict[str, float]:
        """`{parameter name: factor}` of what learns at another rate than `learning_rate`, in a prepared model."""
        return {}

    @property
    def calibration_rows(self) -> int:
        """Rows of the training data whose usage `calibrate` asks for before the first phase; 0: it is not called."""
        return 0

    def calibrate(self, usage: Usage) -> None:  # noqa: B027 - most methods need no data first
        """Take what the base model's experts do on the first `calibration_rows` rows, before `prepare`."""

    @property
    def probe_rows(self) -> int:
        """Rows of the training data whose loss `probe` asks for before this phase; 0: it is not called."""
        return 0

    def probe(self, model: Any, batches: Sequence[Batch]) -> None:  # noqa: B027 - most methods look at no loss first
        """Take what the loss on the first `probe_rows` rows says about the model, before `prepare`."""

    def prepare(self, model: nn.Module) -> None:
        """Make the model ready for this phase, in place, before an optimizer is made for it.

        Attaches the policy, or the counting; a model that has it already (a resumed one) keeps its bias.
        Then sets what trains.
        """
        if find_attachment(model) is None:
            attach(model, self.routing)
        self.layers = moe_layers(model)
        found = attachment_of(model).policy
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
        asked = getattr(self.config, "router", None)
        set_router_mode(model, self.layers, asked or ("freeze" if adapted else self.default_router))

    def step(self, usage: Tensor) -> None:  # noqa: B027 - a method without a step of its own is complete
        """Act on the usage `(L, E)` of one optimizer step, summed over its micro-batches and processes."""

    def clock(self) -> tuple[int, int]:
        """`now`; raises `TrainingError` where nobody told it."""
        if self.now is None:
            raise TrainingError(
                f"{self.name} with these options goes by the number of steps: train with MethodCallback, or set `now` "
                "before each step"
            )
        return self.now

    def metrics(self) -> dict[str, float]:
        """The method's own numbers for the log of this step."""
        return {}

    def artifacts(self, model: nn.Module) -> dict[str, Any]:
        """What a person wants to read about this phase once the model is prepared: `{file name: JSON}`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beyond the model, as JSON; it goes into every checkpoint."""
        return {"method": self.name, "phase": self.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the state of a checkpoint of this phase, or of the phase before; `TrainingError` if it is none."""
        if state.get("method") != self.name or state.get("phase") not in self.phases[: self._position() + 1]:
            raise TrainingError(
                f"a run goes on with the state it had: this one is {self.name}, phase {self.phase}; the checkpoint has "
                f"{ {key: state.get(key) for key in ('method', 'phase')} }"
            )
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise TrainingError(
                f"a run goes on with the state it had; that of the checkpoint lacks {', '.join(missing)}"
            )

    def _position(self) -> int:
        return self.phases.index(self.phase)
