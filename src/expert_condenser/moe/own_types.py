"""Own model types: checkpoints that stock transformers refuses instead of routing without the bias.

`OlmoeForCausalLM` with a policy becomes a `CondenserOlmoeForCausalLM` of type `condenser_olmoe`. The types are
registered with the Auto classes when this module is imported; the classes of a type are made when it is first used.
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
import transformers  # by attribute, at call time: see `registration`
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from expert_condenser.errors import CheckpointError
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attachment import Attachment
from expert_condenser.moe.backbone import lend_backbone
from expert_condenser.moe.families import FAMILIES
from expert_condenser.moe.guarded_config import CondenserConfig
from expert_condenser.moe.layers import MODEL_TYPE_PREFIX, decoder_of, family_name, moe_layers
from expert_condenser.moe.made_types import own_type
from expert_condenser.moe.recycled import install_recycling, make_gates
from expert_condenser.moe.router import set_policy
from expert_condenser.moe.state import check_layers, check_saved_types, make_section, read_section


class CondenserModel:  # in front of a PreTrainedModel
    """Mixed into a family's CausalLM class: builds its routers with the policy that the config names."""

    base_class: ClassVar[Any]
    is_whole: ClassVar[bool] = True
    """Whether it has all that is saved; a trunk leaves the head out."""
    config: Any
    # `from_pretrained` casts every other tensor to its dtype; what is listed here it reads as float32.
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"selection_bias"}

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        policy, condensers_per_layer = read_section(config.condenser, moe_layers(self))  # type: ignore[arg-type]
        install_policy(self, policy)  # type: ignore[arg-type]
        make_room(self, condensers_per_layer)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and strict: raises `CheckpointError` where a tensor is missing or a router's is wrong."""
        with_info = kwargs.pop("output_loading_info", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that they are listed; they are refused below
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        kinds = ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if cls.is_whole else ()))
        problems = {key: sorted(map(str, info[key])) for key in kinds}
        if any(problems.values()):
            found = "; ".join(
                f"{key.replace('_', ' ')}: {', '.join(names[:4])}" for key, names in problems.items() if names
            )
            raise CheckpointError(
                f"{path} is not a whole checkpoint of {cls.__name__}: {found}. Nothing is filled in: save it again, "
                "or start from the base model."
            )
        check_saved_types(path)
        check_layers(moe_layers(model))
        return (model, info) if with_info else model

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """As the family: transformers decides by a look at the source file of the class, and this one is not it."""
        return bool(cls.base_class._can_set_experts_implementation())

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """As the family, for the same reason."""
        return bool(cls.base_class._can_set_attn_implementation())


def install_policy(model: nn.Module, policy: RoutingConfig | None) -> None:
    """Give every router of `model` the policy, its decoder the hooks, and trainers a base model."""
    layers = moe_layers(model)
    decoder = decoder_of(model, layers)
    attachment = Attachment(decoder, [layer.router for layer in layers], policy)
    lend_backbone(causal_lm(model), decoder)
    for layer in layers:
        set_policy(layer.router, layer.rule, attachment)
        if policy is not None and policy.budget == "recycle":
            install_recycling(layer)


def make_room(model: nn.Module, condensers_per_layer: Sequence[int]) -> None:
    """Give every router a tensor for that many condensers, to be filled from a checkpoint.

    Until then it holds E, which is no expert: a router whose condensers nobody filled in fails.
    """
    for layer, count in zip(moe_layers(model), condensers_per_layer, strict=True):
        layer.router.condenser_ids = layer.router.condenser_ids.new_full((count,), layer.num_experts)
        if layer.router.policy.budget == "recycle":
            make_gates(layer.router, count)


@cache
def own_config_class(model_type: str) -> Any:
    """The config class of `condenser_<model_type>`, registered with `AutoConfig`."""
    base = CONFIG_MAPPING[model_type]

    def post_init(self: Any, **kwargs: Any) -> None:
        self.condenser = kwargs.pop("condenser", None)
        base.__post_init__(self, **kwargs)
        own_model_class(model_type)

    name = f"Condenser{base.__name__}"
    own = {"model_type": MODEL_TYPE_PREFIX + model_type, "base_class": base}
    body = {**own, "__post_init__": post_init}
    made = own_type(name, (CondenserConfig, base), body, own_config_class, model_type)
    AutoConfig.register(made.model_type, made, exist_ok=True)
    return made


def _stand_in(model_type: str) -> Any:
    """What `AutoConfig` has under our type until it is first used: called, or asked for what a config class has.

    The class itself needs the family's module. Importing those of all families takes a second, and is not possible
    while one of them is being imported.
    """

    class StandIn(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return own_config_class(model_type)(*args, **kwargs)

        def __getattr__(cls, name: str) -> Any:
            if name.startswith("__"):  # what Python itself asks every class for; no reason to import the family
                raise AttributeError(name)
            return getattr(own_config_class(model_type), name)

    own = MODEL_TYPE_PREFIX + model_type
    return StandIn(f"StandInFor{own}", (), {"model_type": own})


def auto_class(config_class: Any) -> Any:
    """The Auto class that loads a type of model with its language head: of text, or of images and text."""
    if config_class in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def stock_class(model_type: str) -> Any:
    """The family's class with a language head, such as `OlmoeForCausalLM`."""
    config_class = CONFIG_MAPPING[model_type]
    # The public constants, such as MODEL_FOR_CAUSAL_LM_MAPPING, would have to be known by name for each Auto class.
    return auto_class(config_class)._model_mapping[config_class]


@cache
def own_model_class(model_type: str) -> Any:
    """The class of `condenser_<model_type>` with a language head, registered with its Auto class."""
    config_class, base = own_config_class(model_type), stock_class(model_type)
    # The attribute of our class would hide the family's own list: a class of both keeps what either one names.
    in_float32 = CondenserModel._keep_in_fp32_modules_strict | set(base._keep_in_fp32_modules_strict or ())
    body = {
        "config_class": config_class,
        "base_class": base,
        "_keep_in_fp32_modules_strict": in_float32,  # as above
    }
    name = f"Condenser{base.__name__}"
    model_class: Any = own_type(name, (CondenserModel, base), body, own_model_class, model_type)
    auto_class(CONFIG_MAPPING[model_type]).register(config_class, model_class)
    _convert_like(model_type, config_class.model_type)
    _convert_like(base.__name__, model_class.__name__)
    own_trunk_class(model_type)
    return model_class


@cache
def own_trunk_class(model_type: str) -> Any:
    """The class without the head, registered with `AutoModel`: what the backends of vLLM and SGLang build.

    None where the family has no such class (Nemotron 3 Omni).
    """
    trunks, config_class = transformers.MODEL_MAPPING, own_config_class(model_type)
    if CONFIG_MAPPING[model_type] not in trunks:
        return None
    trunk = trunks[CONFIG_MAPPING[model_type]]
    body = {"config_class": config_class, "base_class": trunk, "is_whole": False}
    made = own_type(f"Condenser{trunk.__name__}", (CondenserModel, trunk), body, own_trunk_class, model_type)
    transformers.AutoModel.register(config_class, made)
    return made


def causal_lm(model: nn.Module) -> Any:
    """The family's model with a language head in `model` (itself, or what PEFT or DDP wraps); None if there is none."""
    found = (m for m in model.modules() if isinstance(m, transformers.PreTrainedModel) and family_name(m) in FAMILIES)
    return next((m for m in found if isinstance(m, stock_class(family_name(m)))), None)


def own_config(model: nn.Module, inner: Any) -> None:
    """Give `inner` in `model` a config of its own: a copy, in every module that holds it or a part of it.

    Models may share one config object; what is noted in it is of one model.
    """
    copies: dict[int, Any] = {}
    copy.deepcopy(inner.config, copies)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, transformers.PreTrainedConfig) and id(value) in copies:
                setattr(module, name, copies[id(value)])


def adopt(model: Any, policy: RoutingConfig) -> None:
    """Make a family's CausalLM one of our own type, in place, so that it is saved as what it is."""
    model_type = model.config.model_type
    own = own_model_class(model_type)
    model.__class__ = _sharded_class(own) if isinstance(model, FSDPModule) else own
    model.config.__class__ = own_config_class(model_type)
    model.config.condenser = make_section(policy, [0] * len(moe_layers(model)))


def release(model: Any) -> None:
    """Undo `adopt`."""
    del model.config.condenser
    if hasattr(model.config, "auto_map"):
        del model.config.auto_map
    model.config.__class__ = type(model.config).base_class
    base = type(model).base_class
    model.__class__ = _sharded_class(base) if isinstance(model, FSDPModule) else base


@cache
def _sharded_class(model_class: Any) -> Any:
    """A class as `fully_shard` makes it, which changes the class of a module: saving takes the prefix off again."""
    return type(f"FSDP{model_class.__name__}", (FSDPModule, model_class), {"__module__": model_class.__module__})


def class_of(model: Any) -> Any:
    """The class of a model, or that which it had before `fully_shard`."""
    if not isinstance(model, FSDPModule):
        return type(model)
    # FSDP's class is made of these two, in this order, and has no other sign of the second.
    return type(model).__mro__[type(model).__mro__.index(FSDPModule) + 1]


def register() -> None:
    """Make the own config types known to transformers (done when this module is imported)."""
    for model_type in FAMILIES.keys() & CONFIG_MAPPING.keys():  # older releases of transformers have fewer
        AutoConfig.register(MODEL_TYPE_PREFIX + model_type, _stand_in(model_type), exist_ok=True)


def _convert_like(stock: str, own: str) -> None:
    """Let keys of a checkpoint be renamed as those of a stock model type, or of a stock class."""
    # Here, since it imports most of transformers, and this module is imported while that is half imported itself.
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    # Without it the experts of a checkpoint under our type would be left at their initial values: the keys on disk are
    # per expert. The mapping is looked up by the model's type, and by the name of its class where that has one.
    mapping = get_checkpoint_conversion_mapping(stock)
    if mapping is not None:
        register_checkpoint_conversion_mapping(own, mapping, overwrite=True)


def condensers_of(model: nn.Module) -> dict[int, list[int]]:
    """The condensers of every layer, `{layer index: expert ids}`."""
    return {index: layer.router.condenser_ids.tolist() for index, layer in enumerate(moe_layers(model))}


def selection_biases(model: nn.Module) -> torch.Tensor:
    """The selection bias of every layer, `(L, E)` float32, on the CPU."""
    return torch.stack([layer.router.selection_bias.detach().cpu() for layer in moe_layers(model)])


register()
