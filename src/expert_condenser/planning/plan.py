"""The plan of a training: bytes per device on every engine, FLOPs, time and cost, and what to change first."""

from dataclasses import dataclass
from typing import Any

from expert_condenser.planning.advice import advise
from expert_condenser.planning.engines import ENGINES
from expert_condenser.planning.flops import flops_per_token
from expert_condenser.planning.planner import Machine, Outlook, Planner
from expert_condenser.planning.sizes import Sizes
from expert_condenser.training.recipe import Recipe

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Everything that a plan says."""

    sizes: Sizes
    machine: Machine
    engines: dict[str, Outlook]
    activations: dict[str, int]
    """Bytes of activations at their highest, `with_checkpointing` and `without_checkpointing`."""
    tokens: int
    flops: int
    seconds: float
    cost: float
    advice: list[str]
    warnings: list[str]

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "cost": self.cost,
            "parameters": {
                "total": self.sizes.total,
                "active": self.sizes.active,
                "trainable": self.sizes.trainable,
            },
            "devices": self.machine.devices,
            "memory_per_device": self.machine.memory,
            "activations": self.activations,
            "engines": {
                name: {
                    "bytes_per_device": outlook.kept.device,
                    "total_bytes_per_device": outlook.kept.total,
                    "fits": outlook.fits,
                    "host_bytes_per_device": outlook.kept.host,
                    "precision": outlook.kept.precision,
                    "refused": outlook.refused,
                }
                for name, outlook in self.engines.items()
            },
            "advice": self.advice,
            "warnings": self.warnings,
        }


def make_plan(
    recipe: Recipe,
    machine: Machine,
    *,
    tokens: int | None = None,
    expert_share: float | None = None,
    master_weights: bool | None = None,
) -> Plan:
    """Plan a recipe on a machine, on every engine; reads the model's config and no weight."""
    planner = Planner(recipe, machine, expert_share)
    engines = {name: planner.outlook(engine, master=master_weights) for name, engine in ENGINES.items()}
    activations = {
        f"{word}_checkpointing": max(moment.activations for moment in planner.trace(checkpointing=on).moments)
        for word, on in (("with", True), ("without", False))
    }
    count = planner.total_tokens(tokens)
    mixer = getattr(recipe.method, "mixer", None)
    each = flops_per_token(
        planner.sizes, planner.config, planner.batch.length, mixer, checkpointing=planner.checkpoints
    )
    seconds = each * count / (machine.devices * machine.flops * machine.utilisation)
    return Plan(
        planner.sizes,
        machine,
        engines,
        activations,
        count,
        each * count,
        seconds,
        machine.devices * seconds / 3600 * machine.price,
        advise(planner, engines),
        planner.warnings(),
    )
