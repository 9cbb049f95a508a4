"""The switches of the routing: which rule chooses, which weighs, and how many slots a token has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from expert_condenser.errors import RoutingError


@dataclass(frozen=True)
class RoutingConfig:
    """The method's switches. A preset fills every switch that is left at None.

    `paper`: the bias chooses and does not weigh, condensers take R of the K slots, usage is a count.
    `reference`: the authors' release, for parity only: the bias chooses and weighs, the condensers are
    appended to the K chosen experts even where they duplicate one, usage is the soft mass.
    """

    preset: Literal["paper", "reference"] = "paper"
    num_condensers: int | Sequence[int] | None = None
    """R of every layer, or one R per layer; None leaves the number to `set_condensers`."""
    bias_space: Literal["logit", "score"] | None = None
    """What the bias is added to before the choice: the logits, or the family's scores."""
    bias_in_weights: bool | None = None
    """Whether the gate weights see the bias too (needs `bias_space="logit"`)."""
    budget: Literal["shared", "additive", "recycle"] | None = None
    """`shared`: K slots, R of them the condensers'. `additive`: K + R slots.

    `recycle`: K slots without regard to the condensers, which are added with gates of their own (`moe.recycled`)."""
    duplicates: bool | None = None
    """Additive budget only: whether a condenser may also take one of the K slots, and then counts twice."""
    usage: Literal["count", "mass"] | None = None
    """What the bias rule sees: tokens that chose an expert, or the sum of its probability over tokens."""
    bias_center: Literal["none", "mean"] | None = None
    """`mean` subtracts the mean of the bias after every update."""
    bias_clip: float | None = None
    """Keep the bias in [-clip, clip]; 0.5 emulates the saturation of the authors' bf16 bias."""
    condenser_groups: Literal["exempt", "native"] | None = None
    """Group-limited routing: condensers are always active without regard to groups (`exempt`), or their groups are
    among those that a token keeps (`native`), as in a stock model whose own bias lifts them."""
    condenser_mass: Literal["keep"] | None = None
    """`keep` scales the weights in layers with condensers to the sum that the family's own choice has (`gate_mass`)."""
    condenser_gate_floor: float | None = None
    """phi: a condenser weighs at least phi times the mean weight of the family's own choice; the sum is kept."""

    def __post_init__(self) -> None:
        """Fill in the preset; raise `RoutingError` on values or combinations that have no meaning."""
        if self.preset not in PRESETS:
            raise RoutingError(f"preset is one of {', '.join(PRESETS)}; got {self.preset!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.num_condensers is not None and not isinstance(self.num_condensers, int):
            object.__setattr__(self, "num_condensers", tuple(self.num_condensers))
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise RoutingError(f"{name} is one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}")
        self._check_bias()
        self._check_mass()
        counts = (self.num_condensers,) if isinstance(self.num_condensers, int) else self.num_condensers or ()
        if any(not isinstance(count, int) or count < 0 for count in counts):
            raise RoutingError(f"num_condensers is an integer >= 0, or one per layer; got {self.num_condensers!r}")

    def _check_bias(self) -> None:
        if self.bias_in_weights and self.bias_space != "logit":
            raise RoutingError("bias_in_weights weighs by softmax(logits + bias): it needs bias_space='logit'")
        if self.duplicates and self.budget != "additive":
            raise RoutingError("duplicates appends the condensers to the K chosen experts: it needs budget='additive'")
        if self.bias_clip is not None and not self.bias_clip > 0:
            raise RoutingError(f"bias_clip is a positive bound on |bias|; got {self.bias_clip}")

    def _check_mass(self) -> None:
        if self.condenser_mass not in (None, "keep"):
            raise RoutingError(f"condenser_mass is 'keep', or left out; got {self.condenser_mass!r}")
        floor = self.condenser_gate_floor
        if floor is None and self.condenser_mass is None:
            return
        if floor is not None and not 0 < floor <= 1:
            raise RoutingError(
                f"condenser_gate_floor is a share of the mean weight, above 0 and at most 1; got {floor}"
            )
        if floor is not None and self.condenser_mass is not None:
            raise RoutingError("condenser_gate_floor keeps the sum of the weights itself: leave condenser_mass out")
        if self.budget == "recycle":
            raise RoutingError(
                "budget 'recycle' leaves the weights of the chosen as they are: leave condenser_mass and "
                "condenser_gate_floor out"
            )
        if self.bias_in_weights or self.duplicates:
            raise RoutingError(
                "condenser_mass and condenser_gate_floor keep the sum of the weights of distinct experts: leave "
                "out bias_in_weights, duplicates, and preset 'reference', which sets them"
            )

    @property
    def keeps_mass(self) -> bool:
        """Whether the weights are scaled where a layer has condensers."""
        return self.condenser_mass is not None or self.condenser_gate_floor is not None


PRESETS: dict[str, dict[str, str | bool]] = {
    "paper": {
        "bias_space": "logit",
        "bias_in_weights": False,
        "budget": "shared",
        "duplicates": False,
        "usage": "count",
        "bias_center": "none",
        "condenser_groups": "exempt",
    },
    "reference": {
        "bias_space": "logit",
        "bias_in_weights": True,
        "budget": "additive",
        "duplicates": True,
        "usage": "mass",
        "bias_center": "none",
        "condenser_groups": "exempt",
    },
}
_ALLOWED: dict[str, tuple[object, ...]] = {
    "bias_space": ("logit", "score"),
    "bias_in_weights": (True, False),
    "budget": ("shared", "additive", "recycle"),
    "duplicates": (True, False),
    "usage": ("count", "mass"),
    "bias_center": ("none", "mean"),
    "condenser_groups": ("exempt", "native"),
}
PAPER = RoutingConfig()
