"""The options of `condenser`, checked against each other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from expert_condenser.errors import TrainingError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.functional.selection import SelectionRule
from expert_condenser.methods.selection_bias import SelectionBiasConfig

WITHOUT_PHASE_1 = ("explicit", "random", "smallest_norm", "largest_norm", "counterfactual")
"""Rules that choose by nothing that phase 1 learns or counts."""


@dataclass(frozen=True)
class CondenserConfig(SelectionBiasConfig):
    """gamma of both phases, and who becomes a condenser."""

    variants: ClassVar[tuple[str, ...]] = (
        *SelectionBiasConfig.variants,
        *("counterfactual_rows", "one_schedule", "condenser_rows_only", "rest_learning_rate_factor"),
        *("condenser_mass", "condenser_gate_floor", "condenser_groups"),
    )

    bias_step_condense: float = field(
        default=5e-5, metadata={"help": "gamma of phase 2, while the condensers are active."}
    )
    num_condensers: Allocation | str = field(
        default=Allocation((2,)),
        metadata={
            "help": "Condensers per layer: '2', thirds of the stack '4/2/0', or 'gini:2' (2 per layer in the mean)."
        },
    )
    condenser_rule: str = field(
        default="lowest_bias", metadata={"help": f"Who becomes a condenser: {', '.join(get_args(SelectionRule))}."}
    )
    condensers_file: str | None = field(
        default=None, metadata={"help": "condensers.json of another run, for condenser_rule='explicit'."}
    )
    counterfactual_rows: int | None = field(
        default=None,
        metadata={"help": "Rows whose loss condenser_rule='counterfactual' looks at; 100."},
    )
    one_phase: bool = field(
        default=False,
        metadata={"help": "The condensers are active from the start, without phase 1, by a rule that needs none."},
    )
    selection_seed: int = field(default=0, metadata={"help": "Seed of condenser_rule='random'."})
    one_schedule: bool = field(
        default=False,
        metadata={"help": "One learning-rate schedule over both phases, without a second warm-up."},
    )
    condenser_rows_only: bool = field(
        default=False, metadata={"help": "In phase 2 only the condensers' rows of the routers train."}
    )
    rest_learning_rate_factor: float | None = field(
        default=None,
        metadata={
            "help": "budget 'recycle': kappa, the rate of all but the condensers and their gates; 0 freezes it.",
        },
    )
    condenser_mass: str | None = field(
        default=None,
        metadata={"help": "'keep': condensers leave the sum of a layer's gate weights as it was."},
    )
    condenser_gate_floor: float | None = field(
        default=None,
        metadata={
            "help": "phi: condensers weigh at least phi times the mean weight; the sum is kept.",
        },
    )

    condenser_groups: str | None = field(
        default=None,
        metadata={
            "help": "Group-limited routing: 'exempt' condensers from groups, or 'native': their groups are kept.",
        },
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` or `RoutingError` on values and combinations that have no meaning."""
        super().__post_init__()
        object.__setattr__(self, "num_condensers", Allocation.parse(self.num_condensers))
        if self.condenser_rule not in get_args(SelectionRule):
            raise TrainingError(
                f"condenser_rule is one of {', '.join(get_args(SelectionRule))}; got {self.condenser_rule!r}"
            )
        self._check_explicit()
        self._check_phases()
        if self.selection_seed and self.condenser_rule != "random":
            raise TrainingError(
                f"selection_seed is used by condenser_rule 'random' only; got rule {self.condenser_rule!r}"
            )

    def condenser_switches(self) -> dict[str, Any]:
        """How condensers are weighed."""
        return {
            "condenser_mass": self.condenser_mass,
            "condenser_gate_floor": self.condenser_gate_floor,
            "condenser_groups": self.condenser_groups,
        }

    def _check_phases(self) -> None:
        if self.counterfactual_rows is not None:
            if self.condenser_rule != "counterfactual":
                raise TrainingError("counterfactual_rows is of condenser_rule 'counterfactual': leave it out")
            if self.counterfactual_rows < 1:
                raise TrainingError(
                    f"counterfactual_rows is a number of rows, at least 1; got {self.counterfactual_rows}"
                )
        self._check_recycling()
        if self.one_schedule and self.one_phase:
            raise TrainingError("one_schedule is about two phases, and one_phase has one: leave one of them out")
        if self.condenser_rows_only and self.router not in (None, "train"):
            raise TrainingError(
                f"condenser_rows_only trains rows of the routers, and router is {self.router!r}: leave one of them out"
            )

    def _check_recycling(self) -> None:
        factor = self.rest_learning_rate_factor
        if factor is not None and self.budget != "recycle":
            raise TrainingError("rest_learning_rate_factor is of budget 'recycle': set it, or leave the factor out")
        if factor is not None and not 0 <= factor <= 1:
            raise TrainingError(f"rest_learning_rate_factor is a share of the rate, 0 to 1; got {factor}")

    def _check_explicit(self) -> None:
        if (self.condensers_file is not None) != (self.condenser_rule == "explicit"):
            raise TrainingError(
                f"condenser_rule 'explicit' reads condensers_file (a run's condensers.json), and no other rule does; "
                f"got rule {self.condenser_rule!r} and file {self.condensers_file!r}"
            )
        if self.one_phase and self.bias_step != SelectionBiasConfig.bias_step:
            raise TrainingError("one_phase has phase 2 alone, whose gamma is bias_step_condense; leave bias_step out")
        if self.one_phase and self.condenser_rule not in WITHOUT_PHASE_1:
            raise TrainingError(
                "one_phase leaves out the phase from which condensers are chosen, so condenser_rule is 'explicit', "
                f"with the condensers_file of another run, or {', '.join(WITHOUT_PHASE_1[1:])}; got "
                f"{self.condenser_rule!r}"
            )
        if self.condensers_file is not None and not Path(self.condensers_file).is_file():
            raise TrainingError(f"condensers_file is the condensers.json of a run; there is no {self.condensers_file}")
