"""Whether a tuned model is exactly a model that other programs serve: told from its config and policy alone.

The export computes nothing that routes otherwise. Where a family has a correction bias b of its own, which chooses and
does not weigh, the selection bias beta goes into it (b' = b + beta), and a condenser is an expert whose b' outweighs
every score. llama.cpp has such a bias for softmax routers too, where it is told which of its models to run. All else
is refused, with the reason and the way out.
"""

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch

from expert_condenser.export.gguf_layouts import LAYOUTS, obstacle
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.functional.scoring import SOFTMAX, Scoring
from expert_condenser.moe.corrections import ROUNDED
from expert_condenser.moe.families import FAMILIES

Target = Literal["own", "native", "gguf"]
TARGETS: dict[Target, str] = {
    "own": "our own model type: for programs that import expert_condenser",
    "native": "the family's own type, its correction bias changed: for programs that do not",
    "gguf": "one file for llama.cpp, its choice bias (exp_probs_b) set",
}
_TRAIN = "Tune again without it, or serve our own type"
_STAY = "Serve our own type, or tune with a method that leaves the routing as it is (sft, esft_gate, …)"


class Exact(NamedTuple):
    """The export makes every choice of the model that was tuned, and gives its logits.

    To the bit in a stock class; in llama.cpp as far as its rounding goes.
    """

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
    family = config.model_type.removeprefix("condenser_")
    if target == "own" and policy is not None:
        return Exact(TARGETS[target])
    if policy is None:
        return _stock(target)
    if target == "gguf":
        found = [*_of_gguf(config, family, policy, layers), *_of_policy(policy, layers), *_of_slots(policy, layers)]
        if FAMILIES[family].rule.correction is not None:
            found += _of_family(family, dtype)
        return next(iter(found), Exact(f"exp_probs_b of llama.cpp's {_architecture(family)}"))
    reasons = (*_of_family(family, dtype), *_of_policy(policy, layers), *_of_order(policy, layers))
    return next(iter(reasons), Exact("b' = b + beta in the family's correction bias"))


def ranks_logits(family: str, policy: RoutingConfig) -> bool:
    """Whether a family with this policy ranks logits: the space of the bias, unless the family has its own."""
    return FAMILIES[family].rule.correction is None and policy.bias_space == "logit"


def _architecture(family: str) -> str:
    return LAYOUTS[family].architecture if family in LAYOUTS else ""


def _stock(target: Target) -> Exact | Refused:
    if target == "gguf":
        return Refused(
            "it has no policy: it is a stock model, which llama.cpp's own converter takes",
            "Run convert_hf_to_gguf.py of llama.cpp on it",
        )
    return Exact("it has no policy: it is a stock model already")


def _of_family(family: str, dtype: torch.dtype) -> list[Refused]:
    if FAMILIES[family].rule.correction is None:
        return [
            Refused(
                f"{family} has no correction bias: no tensor of a stock checkpoint takes part in the choice without "
                "weighing",
                _STAY,
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


def _of_gguf(config: Any, family: str, policy: RoutingConfig, layers: Layers) -> list[Refused]:
    if family not in LAYOUTS:
        if FAMILIES[family].rule.correction is not None:
            return [
                Refused(
                    f"{family} is not among the families that are written as GGUF here",
                    "Export --to native, and give that to llama.cpp's convert_hf_to_gguf.py where it knows the family",
                )
            ]
        return [Refused(f"no model of llama.cpp with a choice bias computes what {family} computes", _STAY)]
    if (what := obstacle(family, config)) is not None:
        reason = f"the config has {what}: llama.cpp would compute otherwise, or nobody checked that it does not"
        return [Refused(reason, _STAY)]
    return of_layout(family, policy, layers.scoring)


def of_layout(family: str, policy: RoutingConfig, scoring: Scoring) -> list[Refused]:
    """Why llama.cpp does not rank and weigh as a family of `LAYOUTS` with this policy does; empty where it does."""
    layout, found = LAYOUTS[family], []
    if ranks_logits(family, policy) and not scoring.normalize:
        found.append(
            Refused(
                "no engine ranks logits with a bias and weighs by a softmax over all experts that is not divided by "
                "the sum over the chosen",
                _STAY if layout.divides else "Tune again with bias_space: score, or serve our own type",
            )
        )
    if layout.divides and not scoring.normalize:
        found.append(
            Refused(f"llama.cpp's {layout.architecture} divides the weights by their sum, and {family} does not", _STAY)
        )
    if scoring.groups_kept < scoring.num_groups and scoring.group_rank == "best":
        found.append(Refused("llama.cpp ranks a group by its two best experts, and this model by its best one", _STAY))
    return found


def _of_policy(policy: RoutingConfig, layers: Layers) -> list[Refused]:
    most, found = max(layers.condensers, default=0), []
    if policy.bias_in_weights:
        found.append(Refused("bias_in_weights weighs by the bias, and a correction bias only chooses", _TRAIN))
    if policy.budget == "recycle":
        found.append(Refused("budget 'recycle' has gates of its own, for which a stock model has no tensors", _TRAIN))
    if most and policy.keeps_mass:
        found.append(Refused("the condensers' layers rescale their weights, as no stock model does", _TRAIN))
    if most and policy.duplicates:
        found.append(Refused("duplicates counts an expert twice in one token", _TRAIN))
    limited = layers.scoring.groups_kept < layers.scoring.num_groups
    if most and limited and policy.condenser_groups != "native":
        found.append(
            Refused(
                "a token chooses within a part of the groups, and condensers are active outside of these",
                "Tune with condenser_groups='native', or serve our own type",
            )
        )
    return found


def _of_order(policy: RoutingConfig, layers: Layers) -> list[Refused]:
    if policy.budget != "additive" or not any(layers.condensers):
        return []
    return [
        Refused(
            "a stock model with K + R slots adds the experts' outputs up in another order, and rounds otherwise",
            _TRAIN,
        )
    ]


def _of_slots(policy: RoutingConfig, layers: Layers) -> list[Refused]:
    if policy.budget != "additive" or len(set(layers.condensers)) <= 1:
        return []
    return [
        Refused(
            f"a file has one number of slots for all layers, and these have K + {sorted(set(layers.condensers))}",
            "Tune with the same num_condensers in every layer, or serve our own type",
        )
    ]


def family_exports(family: str) -> dict[str, str]:
    """What a family's models with a bias and one condenser a layer export to, all groups kept: `exact`, or why not."""
    config, layers = SimpleNamespace(model_type=family), Layers(SOFTMAX, (1,))
    found = {}
    for name, dtype in {"native": torch.float32, "native in bfloat16": torch.bfloat16}.items():
        outcome = exportability(config, RoutingConfig(), "native", dtype, layers)
        found[name] = "exact" if isinstance(outcome, Exact) else outcome.reason
    return found
