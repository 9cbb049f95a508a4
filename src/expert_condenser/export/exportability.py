"""Whether a tuned model is, to the bit, a stock model of its family: told from its config and policy alone.

The export computes nothing that routes otherwise. Where a family has a correction bias b of its own, which chooses and
does not weigh, the selection bias beta goes into it (b' = b + beta), and a condenser is an expert whose b' outweighs
every score. All else is refused, with the reason and the way out.
"""

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch

from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.functional.scoring import SOFTMAX, Scoring
from expert_condenser.moe.corrections import ROUNDED
from expert_condenser.moe.families import FAMILIES

Target = Literal["own", "native"]
TARGETS: dict[Target, str] = {
    "own": "our own model type: for programs that import expert_condenser",
    "native": "the family's own type, its correction bias changed: for programs that do not",
}


class Exact(NamedTuple):
    """The export makes every choice, and every logit, of the model that was tuned."""

    how: str


class Refused(NamedTuple):
    """There is no exact export."""

    reason: str
    way_out: str

    def __str__(self) -> str:
        """One sentence for an error."""
        return f"{self.reason}. {self.way_out}"


class Layers(NamedTuple):
    """What of the MoE layers decides: how they score, and how many condensers each has."""

    scoring: Scoring
    condensers: tuple[int, ...]


def exportability(
    config: Any, policy: RoutingConfig | None, target: Target, dtype: torch.dtype, layers: Layers
) -> Exact | Refused:
    """Whether a model of this `config` (of the family, or of our own type) is exactly expressible in `target`.

    `policy` is its routing, None for a model without one; `dtype` is that of the exported weights.
    """
    if target == "own" or policy is None:
        return Exact(TARGETS[target] if policy is not None else "it has no policy: it is a stock model already")
    family = config.model_type.removeprefix("condenser_")
    reasons = (*_of_family(family, dtype), *_of_policy(policy, layers))
    return next(iter(reasons), Exact("b' = b + beta in the family's correction bias"))


def family_exports(family: str) -> dict[str, str]:
    """What a family's models with a bias and one condenser a layer export to, all groups kept: `exact`, or why not."""
    config, layers = SimpleNamespace(model_type=family), Layers(SOFTMAX, (1,))
    found = {}
    for name, dtype in {"native": torch.float32, "native in bfloat16": torch.bfloat16}.items():
        outcome = exportability(config, RoutingConfig(), "native", dtype, layers)
        found[name] = "exact" if isinstance(outcome, Exact) else outcome.reason
    return found


def _of_family(family: str, dtype: torch.dtype) -> list[Refused]:
    if FAMILIES[family].rule.correction is None:
        return [
            Refused(
                f"{family} has no correction bias: no tensor of a stock checkpoint takes part in the choice without "
                "weighing",
                "Serve our own type, or tune with a method that leaves the routing as it is (sft, esft_gate, …)",
            )
        ]
    if dtype != torch.float32 and family in ROUNDED:
        name = str(dtype).removeprefix("torch.")
        return [
            Refused(
                f"the stock class of {family} rounds its correction bias to {name}, which changes choices",
                "Export in float32",
            )
        ]
    return []


def _of_policy(policy: RoutingConfig, layers: Layers) -> list[Refused]:
    most, found = max(layers.condensers, default=0), []
    train = "Tune again without it, or serve our own type"
    if policy.bias_in_weights:
        found.append(Refused("bias_in_weights weighs by the bias, and a correction bias only chooses", train))
    if policy.budget == "recycle":
        found.append(Refused("budget 'recycle' has gates of its own, for which a stock model has no tensors", train))
    if most and policy.keeps_mass:
        found.append(Refused("the condensers' layers rescale their weights, as no stock model does", train))
    if most and policy.duplicates:
        found.append(Refused("duplicates counts an expert twice in one token", train))
    if most and policy.budget == "additive":
        found.append(
            Refused(
                "a stock model with K + R slots adds the experts' outputs up in another order, and rounds otherwise",
                train,
            )
        )
    limited = layers.scoring.groups_kept < layers.scoring.num_groups
    if most and limited and policy.condenser_groups != "native":
        found.append(
            Refused(
                "a token chooses within a part of the groups, and condensers are active outside of these",
                "Tune with condenser_groups='native', or serve our own type",
            )
        )
    return found
