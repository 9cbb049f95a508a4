"""Which MoE type has the attention of a dense one, and how its config is made: all else would change the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from expert_condenser.errors import SurgeryError

_NOT_COPIED = ("model_type", "architectures", "auto_map", "transformers_version", "quantization_config", "num_experts")
_IDLE = 16
"""Units of the shared expert that Qwen2-MoE cannot leave out: all of its weights are 0."""


@dataclass(frozen=True)
class Target:
    """The MoE type of one dense type."""

    model_type: str
    sizes: Callable[[int, int, int], dict[str, Any]]
    """`(E, K, width) -> what the config says of experts`."""
    reason: Callable[[Any], str | None] = lambda config: None
    """What in a dense config the MoE type has no place for; None: nothing."""


def _mixtral(experts: int, chosen: int, width: int) -> dict[str, Any]:
    return {"num_local_experts": experts, "num_experts_per_tok": chosen, "intermediate_size": width}


def _qwen(experts: int, chosen: int, width: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": width,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    }


def _qwen2(experts: int, chosen: int, width: int) -> dict[str, Any]:
    return {**_qwen(experts, chosen, width), "shared_expert_intermediate_size": _IDLE}


def _biased(config: Any) -> str | None:
    named = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    return f"it has biases ({', '.join(named)}), and Mixtral has none" if named else None


def _windowed(config: Any) -> str | None:
    slid = config.use_sliding_window or set(config.layer_types or ()) - {"full_attention"}
    return "some of its layers attend to a window" if slid else None


def _windowed_or_biased(config: Any) -> str | None:
    return _windowed(config) or ("its attention has biases" if config.attention_bias else None)


TARGETS: dict[str, Target] = {
    "llama": Target("mixtral", _mixtral, _biased),
    "mistral": Target("mixtral", _mixtral),
    "qwen2": Target("qwen2_moe", _qwen2, _windowed),
    "qwen3": Target("qwen3_moe", _qwen, _windowed_or_biased),
}
"""All of these MoE types renormalise the weights of the chosen, which makes the result exact."""


def moe_config(config: Any, experts: int, chosen: int, width: int) -> Any:
    """The config of the MoE model of a dense one: all that both have, and experts of `width` units.

    Raises `SurgeryError` where no MoE type has what the dense one has.
    """
    target = TARGETS.get(config.model_type)
    if target is None:
        raise SurgeryError(
            "a dense model becomes one of a MoE type that has its attention, its norms and its gated FFN: "
            f"{', '.join(TARGETS)}; got {config.model_type}. Start from a model of one of these types."
        )
    if reason := target.reason(config):
        raise SurgeryError(f"this {config.model_type} has no MoE type that computes the same: {reason}")
    kept = {name: value for name, value in config.to_dict().items() if name not in _NOT_COPIED}
    plain = AutoConfig.for_model(target.model_type)
    known = {name: value for name, value in kept.items() if hasattr(plain, name)}
    return AutoConfig.for_model(target.model_type, **{**known, **target.sizes(experts, chosen, width)})
