"""What is compared: a method, on an experts implementation."""

from dataclasses import dataclass, field
from typing import Any

import torch

from expert_condenser.bench.shapes import Shape
from expert_condenser.errors import BenchmarkError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.methods import METHODS, Method, MethodConfig
from expert_condenser.methods.condenser import CondenserConfig
from expert_condenser.moe.experts import NAME, RECOMPUTE
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.probe import Batch
from expert_condenser.moe.usage import Usage

STOCK = ("eager", "grouped_mm", "batched_mm")
IMPLEMENTATIONS = {**{name: name for name in (*STOCK, NAME, RECOMPUTE)}, "ours": NAME}


@dataclass(frozen=True)
class Arm:
    """A method with options; `experts` None is the run's implementation."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    experts: str | None = None
    twice: bool = False
    """Compute every MoE layer once more and discard it, as the authors' release does."""

    def slots(self, shape: Shape) -> int:
        """Experts that a token's forward runs through."""
        if self.options.get("mixer") == "plain":
            return shape.experts
        config = METHODS[self.method].Config.of(MethodConfig(**self.options))
        if isinstance(config, CondenserConfig) and config.routing().budget == "additive":
            return shape.top_k + Allocation.parse(config.num_condensers).numbers[0]
        return shape.top_k


ARMS = {
    "sft": Arm("sft"),
    "condenser": Arm("condenser"),
    "condenser_additive": Arm("condenser", {"budget": "additive"}),
    "densemixer": Arm("densemixer", {"mixer": "plain"}),
    "densemixer_lean": Arm("densemixer", {"mixer": "lean"}),
    "esft_gate": Arm("esft_gate"),
    "smt": Arm("smt", {"smt_block": 16}),
    "authors_double": Arm("condenser", {"routing_preset": "reference"}, twice=True),
    "experts:eager": Arm("sft", experts="eager"),
    "experts:grouped_mm": Arm("sft", experts="grouped_mm"),
    "experts:batched_mm": Arm("sft", experts="batched_mm"),
    "experts:ours": Arm("sft", experts=NAME),
}
"""`authors_double` is a stand-in for the authors' release: K + R slots, and every MoE layer computed twice."""


def arms_of(names: list[str]) -> dict[str, Arm]:
    """Arms by name: one of `ARMS`, a method, or either with an implementation, `condenser@eager`.

    Raises `BenchmarkError` on a name that is none of these.
    """
    return {name: _arm_of(name) for name in names}


def _arm_of(name: str) -> Arm:
    base, _, experts = name.partition("@")
    arm = ARMS.get(base) or (Arm(base) if base in METHODS else None)
    if arm is None or (experts and experts not in IMPLEMENTATIONS):
        raise BenchmarkError(
            f"an arm is one of {', '.join({**ARMS, **METHODS})}, also with @ and an experts implementation "
            f"({', '.join(IMPLEMENTATIONS)}); got {name!r}"
        )
    return Arm(arm.method, arm.options, IMPLEMENTATIONS[experts], arm.twice) if experts else arm


def prepare(arm: Arm, model: Any, default_experts: str) -> Method:
    """Make the model train by the arm's method, in its last phase, which costs the most; returns the method."""
    implementation = arm.experts or default_experts
    model.set_experts_implementation(implementation)
    kind, config = METHODS[arm.method], MethodConfig(**arm.options)
    method = kind(config)
    if method.calibration_rows:
        method.calibrate(_usage(model))
    if method.probe_rows:
        method.probe(model, [_rows(model)])
    method.prepare(model)
    for phase in method.phases_of(method.config)[1:]:
        layers = moe_layers(model)
        method.step(torch.randint(0, 1000, (len(layers), layers[0].num_experts)))
        state, method = method.state_dict(), kind(config, phase)
        method.load_state_dict(state)
        method.prepare(model)
    if arm.twice:
        for layer in moe_layers(model):
            model.get_submodule(layer.block).register_forward_pre_hook(_compute_and_discard, with_kwargs=True)
    return method


def _compute_and_discard(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    block.forward(*args, **kwargs)


def _rows(model: Any) -> Batch:
    ids = torch.randint(2, model.config.get_text_config().vocab_size, (2, 16), device=model.device)
    return Batch(ids, torch.ones_like(ids), ids)


def _usage(model: Any) -> Usage:
    """Usage as unequal as that of DeepSeek-V2-Lite, where 4 to 6 of 64 experts reach top_p = 0.2."""
    layers = moe_layers(model)
    mass = torch.arange(layers[0].num_experts).mul(-0.03).exp().double().repeat(len(layers), 1)
    return Usage((mass * 1e6).long(), mass)
