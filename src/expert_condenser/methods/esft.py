"""`esft_token`, `esft_gate`: Expert-Specialized Fine-Tuning, arXiv 2407.01906.

Score the experts of every layer on task data, train the smallest set whose scores reach `top_p`, freeze the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Float64, Num
from torch import Tensor, nn

from expert_condenser.adapters.expert_parts import keep_adapters_of
from expert_condenser.errors import DataError, TrainingError
from expert_condenser.files import read_json, write_json
from expert_condenser.methods.base import Method, RouterConfig
from expert_condenser.moe.layers import MoELayer, decoder_depth
from expert_condenser.moe.parameters import Group, freeze, is_adapter, parameter_groups, set_router_mode
from expert_condenser.moe.slices import is_sliced, train_slices, trained_ids
from expert_condenser.moe.usage import Usage

ScoreKind = Literal["token", "gate"]
EXPERT_CONFIG = "expert_cfg.json"
_SLACK = 1e-12
"""Of a running sum in float64: ten shares of 0.1 reach 0.3 with three."""
_FLOAT32 = 1e-7
"""How far a share in float32 may be from what it stands for."""


def select_experts(scores: Float[Tensor, "L E"], top_p: float) -> list[list[int]]:
    """Per layer the smallest set of experts whose scores reach `top_p`, best first (section 3.3 of the paper).

    Experts are taken by descending score, ties by index, until their running sum reaches `top_p`; the one that
    crosses it is taken. Scores may be rounded, as published ones are; their running sum is taken as it stands.
    Raises `TrainingError` unless 0 < top_p <= 1 and every layer's scores are a share of one, up to their rounding.
    """
    if not 0 < top_p <= 1:
        raise TrainingError(f"top_p is a share of the score, above 0 and at most 1; got {top_p}")
    exact = scores.double()
    sums = exact.sum(dim=-1)
    least, most = _unrounded_sums(exact)
    if not ((least < 1) & (most > 1) & (exact >= 0).all(dim=-1)).all():
        raise TrainingError(f"scores are shares that sum to 1 in every layer, but for rounding; got {sums.tolist()}")
    order = exact.sort(dim=-1, descending=True, stable=True)
    before = order.values.cumsum(dim=-1) - order.values
    needed = sums.clamp(max=top_p) - _SLACK
    return [ids[reached < enough].tolist() for ids, reached, enough in zip(order.indices, before, needed, strict=True)]


def _unrounded_sums(scores: Float64[Tensor, "L E"]) -> tuple[Float64[Tensor, " L"], Float64[Tensor, " L"]]:
    """Bounds on the sums of the shares that were rounded to these scores, by half of their last decimal each."""
    decimals = next((d for d in range(7) if (scores.round(decimals=d) - scores).abs().max() < _FLOAT32), 0)
    half = 10.0**-decimals / 2 if decimals else _FLOAT32  # whole numbers are no rounded shares
    return (scores - half).clamp(min=0).sum(dim=-1) + _SLACK, (scores + half).sum(dim=-1) - _SLACK


def expert_shares(mass: Num[Tensor, "L E"]) -> Float[Tensor, "L E"]:
    """Scores of the experts: counts (`token`) or gate weights (`gate`) as shares of the layer's total."""
    return mass.double() / mass.double().sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class ExpertConfig:
    """`expert_cfg.json` of ESFT's release: expert ids by decoder layer (not by MoE layer), and two switches."""

    experts: dict[str, list[int]]
    shared_experts: bool = False
    non_expert_modules: bool = False

    @classmethod
    def read(cls, path: Path) -> "ExpertConfig":
        """Raises `TrainingError` where the file is no such thing."""
        try:
            content = read_json(path)
            switches = content["shared_experts"], content["non_expert_modules"]
            if {type(switch) for switch in switches} != {bool}:
                raise ValueError("the switches are true or false")
            return cls(_expert_ids(content["experts"]), *switches)
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"expert_config is an expert_cfg.json as ESFT writes it; {path}: {error!r}") from error

    def write(self, path: Path) -> None:
        """As ESFT's release writes it."""
        write_json(path, asdict(self), indent=None)

    def of_layers(self, layers: Sequence[MoELayer]) -> list[list[int]]:
        """Expert ids per MoE layer; raises `TrainingError` where the file is that of another model."""
        depths = [str(decoder_depth(layer)) for layer in layers]
        ids = [i for chosen in self.experts.values() for i in chosen]
        if set(depths) != set(self.experts) or max(ids, default=0) >= layers[0].num_weighted:
            raise TrainingError(
                f"expert_cfg.json is of another model: it has decoder layers {', '.join(self.experts)} and experts up "
                f"to {max(ids, default=0)}; this one has MoE layers {', '.join(depths)} of {layers[0].num_weighted} "
                "experts. Score this model: condenser score."
            )
        chosen = [self.experts[depth] for depth in depths]
        if min(ids, default=0) < 0 or any(len(set(of_layer)) != len(of_layer) for of_layer in chosen):
            raise TrainingError(
                f"the experts of a layer are distinct ids from 0 on; expert_cfg.json has {self.experts}"
            )
        return chosen


def _expert_ids(content: Any) -> dict[str, list[int]]:
    """Expert ids by layer; raises `ValueError`, `TypeError` or `AttributeError` on anything else."""
    found = {str(int(layer)): list(chosen) for layer, chosen in content.items()}
    if not {type(i) for chosen in found.values() for i in chosen} <= {int}:
        raise ValueError("expert ids are integers")
    return found


@dataclass(frozen=True)
class EsftConfig(RouterConfig):
    """Which experts train, and what else."""

    top_p: float = field(default=0.2, metadata={"help": "ESFT trains the smallest set of experts with this score."})
    expert_config: str | None = field(
        default=None, metadata={"help": "expert_cfg.json with ESFT's experts; None: score the training data first."}
    )
    score_rows: int = field(default=128, metadata={"help": "Rows of the training data that ESFT scores experts on."})
    shared_experts: bool = field(default=False, metadata={"help": "ESFT also trains the shared experts."})
    non_expert_modules: bool = field(
        default=False, metadata={"help": "ESFT also trains all that is no expert: routers, attention, embeddings."}
    )

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning, or no effect."""
        super().__post_init__()
        if not 0 < self.top_p <= 1:
            raise TrainingError(f"top_p is a share of the score, above 0 and at most 1; got {self.top_p}")
        if self.score_rows < 1:
            raise TrainingError(f"score_rows is a number of rows, at least 1; got {self.score_rows}")
        names = ("top_p", "score_rows", "shared_experts", "non_expert_modules")
        idle = [name for name in names if getattr(self, name) != getattr(EsftConfig, name)]
        if self.expert_config is not None and idle:
            raise TrainingError(f"expert_config says what trains, so {', '.join(idle)} has no effect; leave it out")


class Esft(Method):
    """What the two scores share."""

    Config = EsftConfig
    score: ClassVar[ScoreKind]
    paper = "arXiv 2407.01906"
    trainable = "the chosen experts"
    default_router = "freeze"

    def __init__(self, config: Any = None, phase: str | None = None) -> None:
        super().__init__(config, phase)
        self.scores: Tensor | None = None
        """`(L, E)`, each expert's share of its layer's total; chosen from in `prepare`."""
        self.chosen: ExpertConfig | None = None
        if self.config.expert_config is not None:
            self.chosen = ExpertConfig.read(Path(self.config.expert_config))

    @property
    def calibration_rows(self) -> int:
        """`score_rows`, unless the experts are chosen already."""
        return self.config.score_rows if self.chosen is None else 0

    @property
    def whole_start(self) -> bool:
        """Always: slices are taken from whole weights."""
        return True

    def calibrate(self, usage: Usage) -> None:
        """Score the experts by what the task's tokens do with them."""
        self.scores = expert_shares(usage.counts if self.score == "token" else usage.gate_mass)

    def choose(self, layers: Sequence[MoELayer], scores: Float[Tensor, "L E"]) -> ExpertConfig:
        """The experts to train, by their scores on the task data.

        Experts that are the identity have nothing to train: the scores are shares among those with weights.
        """
        if (weighted := layers[0].num_weighted) < scores.shape[-1]:
            scores = expert_shares(scores[:, :weighted])
        ids = select_experts(scores, self.config.top_p)
        experts = {str(decoder_depth(layer)): chosen for layer, chosen in zip(layers, ids, strict=True)}
        self.chosen = ExpertConfig(experts, self.config.shared_experts, self.config.non_expert_modules)
        return self.chosen

    def select_trainable(self, model: nn.Module) -> None:
        """The chosen experts, and the two switches; with an adapter, its parts on other experts stay zero."""
        if self.chosen is None:
            if self.scores is None:
                raise TrainingError("ESFT trains experts chosen by score: set expert_config, or score data first")
            self.choose(self.layers, self.scores)
        assert self.chosen is not None
        ids = self.chosen.of_layers(self.layers)
        groups = parameter_groups(model, self.layers)
        if any(map(is_adapter, groups)):
            self._select_adapters(model, groups, ids)
            return
        kept = self._groups_that_train(set(groups.values()))
        if kept < set(groups.values()):
            freeze(model, [name for name, group in groups.items() if group not in kept])
        for layer, chosen in zip(self.layers, ids, strict=True):
            if not is_sliced(layer):
                train_slices(layer, chosen)
            elif (found := trained_ids(layer)) != sorted(chosen):
                raise TrainingError(f"{layer.name} trains the experts {found} already; got {chosen}")

    def _groups_that_train(self, groups: set[Group]) -> set[Group]:
        kept: set[Group] = {"routed experts"}
        assert self.chosen is not None
        if self.config.router == "lora":
            raise TrainingError("router='lora' trains adapters on the routers, and this run has none: set lora as well")
        if self.chosen.shared_experts:
            if "shared experts" not in groups:
                raise TrainingError("shared_experts trains the shared experts, and this model has none")
            kept.add("shared experts")
        if self.chosen.non_expert_modules:
            kept |= groups - {"shared experts"}
        if self.config.router == "train":
            kept.add("router")
        return kept - {"router"} if self.config.router == "freeze" else kept

    def _select_adapters(self, model: nn.Module, groups: dict[str, Group], ids: list[list[int]]) -> None:
        """With an adapter: its parts on experts that were not chosen stay zero."""
        assert self.chosen is not None
        adapted = {group for name, group in groups.items() if is_adapter(name)} - {"router"}
        if "routed experts" not in adapted:
            raise TrainingError("ESFT trains experts; with an adapter it needs lora='experts'")
        if self.chosen.shared_experts or (self.chosen.non_expert_modules and adapted == {"routed experts"}):
            raise TrainingError(
                "with an adapter the weights of the base stay: shared_experts is not possible, and non_expert_modules "
                "needs lora='attention+experts'"
            )
        if adapted != {"routed experts"} and not self.chosen.non_expert_modules:
            raise TrainingError(
                f"the adapter also trains {', '.join(sorted(adapted - {'routed experts'}))}, which ESFT freezes unless "
                "non_expert_modules is set; take lora='experts'"
            )
        set_router_mode(model, self.layers, self.config.router or "freeze")
        for layer, chosen in zip(self.layers, ids, strict=True):
            keep_adapters_of(layer, chosen)

    def artifacts(self, model: nn.Module) -> dict[str, Any]:
        """`expert_cfg.json`, which `expert_config` of another run reads."""
        return {} if self.chosen is None else {EXPERT_CONFIG: asdict(self.chosen)}

    def state_dict(self) -> dict[str, Any]:
        """Also the experts that train."""
        return {**super().state_dict(), "experts": None if self.chosen is None else self.chosen.experts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also take over the experts that train; raises `TrainingError` where this run trains others."""
        super().load_state_dict(state)
        if self.chosen is None:
            config = self.config
            self.chosen = ExpertConfig(_expert_ids(state["experts"]), config.shared_experts, config.non_expert_modules)
        if state["experts"] != self.chosen.experts:
            raise TrainingError(
                f"a run goes on with the experts that it trained, {state['experts']}; asked for {self.chosen.experts}"
            )


class EsftToken(Esft):
    """Scores are each expert's share of the selections."""

    name = "esft_token"
    summary = "train the experts that the task's tokens choose most, freeze the rest"
    score = "token"


class EsftGate(Esft):
    """Scores are each expert's share of the gate weights."""

    name = "esft_gate"
    summary = "train the experts with the largest gate weights on the task, freeze the rest"
    score = "gate"
