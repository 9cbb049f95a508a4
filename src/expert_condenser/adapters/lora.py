"""LoRA with PEFT: on attention, on the fused experts, on the routers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from torch import nn

from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.peft_type import CondenserLoraConfig
from expert_condenser.errors import TrainingError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import parameter_groups


def add_adapter(model: Any, options: AdapterConfig, targets: Sequence[str], routing: RoutingConfig | None) -> Any:
    """Wrap a plain model into a `PeftModel` with a new adapter; with a policy, that is attached first.

    Raises `TrainingError` where a target matches nothing.
    """
    modules, parameters = _find(model, targets)
    common = {
        "r": options.lora_r,
        "lora_alpha": options.lora_alpha,
        "lora_dropout": options.lora_dropout,
        "use_dora": options.lora_dora,
        "target_modules": modules,
        "target_parameters": parameters or None,
        "task_type": TaskType.CAUSAL_LM,
    }
    if routing is None:
        return get_peft_model(model, LoraConfig(**common))
    state = {"routing": asdict(routing), "condensers_per_layer": [0] * len(moe_layers(model))}
    return get_peft_model(model, CondenserLoraConfig(**common, condenser=state))


def _find(model: nn.Module, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the linear modules and of the bare parameters that the targets mean."""
    layers = moe_layers(model)
    groups = parameter_groups(model, layers)
    group_of = {"attention": "attention", "experts": "routed experts", "router": "router"}
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    modules: list[str] = []
    parameters: list[str] = []
    for target in targets:
        names = [n for n, p in model.named_parameters() if groups[n] == group_of[target] and p.dim() in (2, 3)]
        if target == "experts":
            names = [name for name in names if model.get_parameter(name).dim() == 3]
        of_modules = [n.rpartition(".")[0] for n in names if n.rpartition(".")[0] in linear]
        bare = [n for n in names if n.rpartition(".")[0] not in linear and target != "attention"]
        if target == "experts" and not bare and any(layer.rule.stacked_experts for layer in layers):
            raise TrainingError(
                "lora adapts one expert at a time; the experts of this model are stacked in matrices, which have no "
                "slice for each. Take lora='attention'"
            )
        if not of_modules and not bare:
            raise TrainingError(f"lora adapts {target}, and this model has no weight of that kind")
        modules += of_modules
        parameters += bare
    return modules, parameters
