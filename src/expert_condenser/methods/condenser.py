"""`condenser`: the paper's method, in two phases.

1. `sparsify`: learn weights and bias, busy experts up, long-tailed experts down.
2. choose the condensers of every layer from what phase 1 learnt, once;
   `condense`: go on from phase 1's weights and bias, with the condensers always active.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from expert_condenser.adapters.expert_parts import with_adapter
from expert_condenser.errors import DataError, RoutingError, TrainingError
from expert_condenser.files import read_json
from expert_condenser.functional.bias import usage_direction
from expert_condenser.functional.concentration import gini
from expert_condenser.functional.routing import check_condensers
from expert_condenser.functional.selection import SelectionRule, select_condensers
from expert_condenser.methods.bias_only import BiasOnly
from expert_condenser.methods.condenser_config import CondenserConfig as CondenserConfig
from expert_condenser.methods.recycling import rest_of, train_recycled
from expert_condenser.moe.attach import set_condensers
from expert_condenser.moe.counterfactual import Utilities, expert_utilities
from expert_condenser.moe.layers import expert_norms, moe_layers
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.moe.parameters import is_adapter, router_trains
from expert_condenser.moe.probe import Batch
from expert_condenser.moe.router_rows import RouterRows
from expert_condenser.moe.state import check_same_routers

FORMAT_VERSION = 1
"""Of condensers.json."""
CONDENSERS = "condensers.json"
ROWS = 100
"""Rows whose loss `condenser_rule: counterfactual` looks at."""
ROUNDING = 0.05
"""How far, relative to its largest value, float32 may carry a bias off its whole steps: 800,000 steps at 2^-24 each."""


class Condenser(BiasOnly):
    """ExpertCondenser, arXiv 2604.23036."""

    Config = CondenserConfig
    name = "condenser"
    summary = "ExpertCondenser: bias-driven sparsification, then always-active condenser experts"
    paper = "arXiv 2604.23036"
    phases = ("sparsify", "condense")

    def __init__(self, config: Any = None, phase: str | None = None) -> None:
        super().__init__(config, phase)
        self.usage: Tensor | None = None
        """Usage `(L, E)` over all of phase 1: breaks ties, and chooses under `least_used` and `gini:`."""
        self.utilities: Utilities | None = None
        """What `condenser_rule: counterfactual` chooses by."""
        self.rows = RouterRows() if self.config.condenser_rows_only and self.phase == "condense" else None
        self.whole_weights = self.rows is not None or self.routing.budget == "recycle"
        self.bias_steps: Tensor | None = None
        """Steps up minus steps down of every bias over phase 1, `(L, E)` int64; None where they are not known."""

    @classmethod
    def phases_of(cls, config: Any) -> tuple[str, ...]:
        """Both; with `one_phase`, the second alone."""
        return cls.phases[1:] if config.one_phase else cls.phases

    @property
    def bias_step(self) -> float:
        """gamma1 in phase 1, gamma2 in phase 2."""
        return self.config.bias_step if self.phase == "sparsify" else self.config.bias_step_condense

    @property
    def probe_rows(self) -> int:
        """`counterfactual_rows`, where the condensers are chosen by it."""
        chooses = self.phase == "condense" and self.config.condenser_rule == "counterfactual"
        return (self.config.counterfactual_rows or ROWS) if chooses else 0

    def probe(self, model: Any, batches: Sequence[Batch]) -> None:
        """Find what each expert's presence would do to the loss."""
        self.utilities = expert_utilities(model, batches)

    def prepare(self, model: nn.Module) -> None:
        """Attach the policy; in phase 2 also choose the condensers, unless the model has them already."""
        if self.routing.budget == "recycle" and any(is_adapter(name) for name, _ in model.named_parameters()):
            raise TrainingError(
                "budget 'recycle' adds tensors to the routers, which an adapter does not save: drop one"
            )
        super().prepare(model)
        self._check_tables()
        self._check_layers()
        if self.phase == "condense" and not any(condensers_of(model).values()):
            set_condensers(model, self.choose(model))
        if self.config.condenser_rows_only and not router_trains(model, self.layers):
            raise TrainingError("condenser_rows_only trains rows of the routers, and with an adapter none trains")
        if self.phase == "condense" and self.routing.budget == "recycle":
            train_recycled(model, self.layers, self.kappa)
        if self.rows is not None:
            self.rows.train(model, self.layers, condensers_of(model))

    def step(self, usage: Tensor) -> None:
        """As in `bias_only`; phase 1 also adds up the usage, and the directions of the steps."""
        if self.phase == "sparsify":
            self._count_steps(usage)
            self.usage = usage.cpu() if self.usage is None else self.usage + usage.cpu()
        super().step(usage)
        if self.rows is not None:
            self.rows.restore()

    @property
    def kappa(self) -> float:
        """Under `budget: recycle`, the factor on the learning rate of the rest of the model."""
        factor = self.config.rest_learning_rate_factor
        return 1.0 if factor is None else factor

    def learning_rate_factors(self, model: nn.Module) -> dict[str, float]:
        """Under `budget: recycle`, kappa for all that trains but the condensers and their gates."""
        return {} if self.phase == "sparsify" or self.kappa == 1 else rest_of(model, self.layers, self.kappa)

    @property
    def one_schedule(self) -> bool:
        """By the option of this name."""
        return bool(self.config.one_schedule)

    def _count_steps(self, usage: Tensor) -> None:
        biases = torch.stack([layer.router.selection_bias for layer in self.layers])
        if self.usage is None and not biases.any() and self.config.bias_rule is None:
            self.bias_steps = torch.zeros(usage.shape, dtype=torch.int64)
        if self.bias_steps is not None and self.bias_step > 0:
            usage = usage.to(biases.device)  # where the bias itself is moved: masses may round otherwise elsewhere
            self.bias_steps = (
                self.bias_steps + usage_direction(usage, self.competes(usage).to(usage.device)).long().cpu()
            )

    def choose(self, model: nn.Module) -> dict[int, list[int]]:
        """The condensers by the configured rule, from the model's bias and weights and phase 1's usage."""
        rule = cast(SelectionRule, self.config.condenser_rule)
        weighted = self.layers[0].num_weighted  # the last experts may be the identity, which is no condenser
        usage = self.usage if self.utilities is None else self.utilities.counts
        return select_condensers(
            self._allocation(),
            rule=rule,
            bias=self._ranked_bias(model)[:, :weighted],
            usage=None if usage is None else usage[:, :weighted],
            norms=self._norms(model)[:, :weighted] if "norm" in rule else None,
            utility=None if self.utilities is None else self.utilities.utility[:, :weighted],
            seed=self.config.selection_seed,
            explicit=self._explicit() if rule == "explicit" else None,
            num_experts=weighted,
        )

    def _ranked_bias(self, model: nn.Module) -> Tensor:
        """The bias in whole steps, so that equal sums of steps are a tie: in float32 they differ by rounding.

        The bias itself where its steps were not counted (a checkpoint of an earlier release), where a bound cut some
        off, or where it is another one, set by hand.
        """
        biases = selection_biases(model)
        if self.bias_steps is None or self.config.bias_clip is not None:
            return biases
        rest = biases.double() - self.config.bias_step * self.bias_steps
        spread = rest.amax(-1) - rest.amin(-1)  # bias_center moves all experts of a layer alike
        explained = spread <= self.config.bias_step / 2 + ROUNDING * biases.abs().amax(-1)
        return self.bias_steps.double() if explained.all() else biases

    def _norms(self, model: nn.Module) -> Tensor:
        """Of every expert's weights as they act, `(L, E)`: with an adapter, base and adapter together."""
        return torch.stack([expert_norms(with_adapter(layer)).cpu() for layer in moe_layers(model)])

    def artifacts(self, model: nn.Module) -> dict[str, Any]:
        """`condensers.json`: who was chosen, by which rule, from which numbers."""
        return {CONDENSERS: self._report(model)} if any(condensers_of(model).values()) else {}

    def _report(self, model: nn.Module) -> dict[str, Any]:
        biases, chosen = selection_biases(model), condensers_of(model)
        usage = self.usage if self.usage is not None else torch.zeros_like(biases)
        return {
            "format_version": FORMAT_VERSION,
            "rule": self.config.condenser_rule,
            "num_condensers": str(self.config.num_condensers),
            "ties": f"lower usage {'in phase 1' if self.utilities is None else 'on the rows'}, then lower index",
            "layers": [
                {
                    "layer": index,
                    "router": layer.name,
                    "condensers": chosen[index],
                    "bias_of_condensers": [round(biases[index, i].item(), 7) for i in chosen[index]],
                    "usage_of_condensers": [usage[index, i].item() for i in chosen[index]],
                    **self._utilities_of(index),
                    "bias": [round(value, 7) for value in biases[index].tolist()],
                    "usage": usage[index].tolist(),
                }
                for index, layer in enumerate(self.layers)
            ],
        }

    def _utilities_of(self, index: int) -> dict[str, Any]:
        if self.utilities is None:
            return {}
        return {"utility": self.utilities.utility[index].tolist(), "rows_usage": self.utilities.counts[index].tolist()}

    def state_dict(self) -> dict[str, Any]:
        """Also phase 1's usage and the steps of its bias, from which phase 2 chooses."""
        tables = {"usage": self.usage, "bias_steps": self.bias_steps}
        return super().state_dict() | {name: None if t is None else t.tolist() for name, t in tables.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also take over phase 1's usage and steps; states of earlier releases are without the steps."""
        super().load_state_dict({"bias_steps": None, **state})
        steps = state.get("bias_steps")
        self.bias_steps = None if steps is None else torch.tensor(steps, dtype=torch.int64)
        usage = state["usage"]
        dtype = torch.float64 if usage and isinstance(usage[0][0], float) else torch.int64
        self.usage = None if usage is None else torch.tensor(usage, dtype=dtype)

    def _allocation(self) -> list[int]:
        layer, routing = self.layers[0], self.routing
        if layer.top_k == 1 and any(self.config.num_condensers.numbers):
            check_condensers(1, layer.num_experts, 1, routing, layer.scoring)  # says which budget has room for one
        eligible = layer.num_experts // layer.scoring.num_groups * layer.scoring.groups_kept
        room = layer.top_k - 1 if routing.budget == "shared" else eligible - layer.top_k
        most = min(layer.num_experts - 1, layer.num_weighted)
        maximum = most if routing.duplicates or routing.budget == "recycle" else min(most, room)
        # In phase 1 nothing is counted yet: equal Ginis check the recipe before anything is trained.
        equal = torch.ones(len(self.layers), dtype=torch.float64) if self.phase == "sparsify" else None
        ginis = equal if self.usage is None else gini(self.usage)
        return self.config.num_condensers.per_layer(len(self.layers), ginis, maximum)

    def _check_layers(self) -> None:
        """What `choose` would refuse after phase 1 is refused before it."""
        counts = self._allocation()
        for index, (layer, count) in enumerate(zip(self.layers, counts, strict=True)):
            try:
                check_condensers(count, layer.num_experts, layer.top_k, self.routing, layer.scoring)
            except RoutingError as error:
                raise RoutingError(f"layer {index} ({layer.name}): {error}") from None
        if self.config.condenser_rule == "explicit":
            select_condensers(
                counts, rule="explicit", explicit=self._explicit(), num_experts=self.layers[0].num_weighted
            )

    def _check_tables(self) -> None:
        """What a state brought is of this model."""
        shape = len(self.layers), self.layers[0].num_experts
        for name, table in (("usage", self.usage), ("bias_steps", self.bias_steps)):
            if table is not None and tuple(table.shape) != shape:
                raise TrainingError(f"{name} of phase 1 is of (layers, experts) = {shape}; got {tuple(table.shape)}")
        if self.usage is not None and not (self.usage.isfinite() & (self.usage >= 0)).all():
            raise TrainingError("usage of phase 1 is numbers that are finite and not negative; the state has others")

    def _explicit(self) -> dict[int, list[int]]:
        path = Path(str(self.config.condensers_file))
        try:
            content = read_json(path)
            entries = content["layers"]
            _check_kinds(content)
            check_same_routers(entries, self.layers)
            return {entry["layer"]: entry["condensers"] for entry in entries}
        except RoutingError as error:
            raise TrainingError(f"{path} is of another model: {error}") from error
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"condensers_file is the condensers.json of a run; {path} is none ({error!r})"
            ) from error


def _check_kinds(content: Any) -> None:
    """Raise `TypeError` unless every layer and condenser is an integer (True is none), of a version that is known."""
    if (version := content.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise TypeError(f"format_version is {version!r}, and this release reads {FORMAT_VERSION}")
    for entry in content["layers"]:
        numbers = [entry["layer"], *entry["condensers"]]
        if any(type(number) is not int for number in numbers):
            raise TypeError(f"layer and condensers are integers, got {numbers!r:.200}")
