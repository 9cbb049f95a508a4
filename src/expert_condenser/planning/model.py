"""The model of a recipe without weights: built from its config, with its adapter, prepared by its method."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

# Tensors with a shape and no data, on which autograd runs as on real ones; torch's own estimators take them from here.
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.utils import logging

from expert_condenser.adapters import in_effect
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.config import read_config
from expert_condenser.checkpoint.load import resolve_model
from expert_condenser.errors import PlanError
from expert_condenser.methods import Method
from expert_condenser.moe.layers import decoder_depth, moe_layers
from expert_condenser.moe.own_types import auto_class
from expert_condenser.training.auxiliary import lend_fields
from expert_condenser.training.recipe import Recipe


def config_of(recipe: Recipe) -> Any:
    """The config of the recipe's model, as weights that can train; raises `PlanError` where there is none."""
    revision = {} if recipe.run.revision is None else {"revision": recipe.run.revision}
    try:
        config = read_config(resolve_model(recipe.run.model), **revision)
    except (OSError, ValueError) as error:
        raise PlanError(f"a plan reads the config of the model, {recipe.run.model}: {error}") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # a run trains dequantised weights
    return config


@contextmanager
def without_data() -> Iterator[None]:
    """Within it, every new tensor has a shape and no data."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what a library says of a model that nobody trains
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            patch.object(torch.utils, "swap_tensors", _take_over),
            patch.object(in_effect, "check_layers", lambda layers: None),  # router state without values
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _take_over(old: torch.Tensor, new: torch.Tensor) -> None:
    """What `Module.to` does with tensors without data. torch's own way refuses any tensor that others know."""
    old.data = new.data


def build(
    config: Any, recipe: Recipe, implementation: str, dtype: torch.dtype, share: float | None = None
) -> tuple[Any, Method]:
    """The model as it trains in its first phase, and its method; call it within `without_data`.

    `share` is the part of the experts that ESFT trains, which the data decide; None: `top_p`, which is the most.
    """
    attention = recipe.run.attn_implementation
    options = {"attn_implementation": attention} if attention in ("eager", "sdpa") else {}
    kind = auto_class(type(config))
    try:
        model = kind.from_config(_copied(config), dtype=dtype, experts_implementation=implementation, **options)
    except ValueError as error:  # some families have one implementation only, and say so
        if "experts implementation" not in str(error):
            raise
        model = kind.from_config(_copied(config), dtype=dtype, **options)
    method = recipe.new_method()
    if recipe.adapter.lora is not None:
        model = add_adapter(model, recipe.adapter, recipe.adapter_targets, method.routing)
    choose_experts(model, method, share)
    method.prepare(model)
    if method.router_aux_loss_coef:
        lend_fields(model.config.get_text_config(), method.layers)
    return model.train(), method


def _copied(config: Any) -> Any:
    """A config to build a model of, which writes implementations into it, also where it fails."""
    return type(config).from_dict(config.to_dict())


def choose_experts(model: Any, method: Method, share: float | None) -> None:
    """Of a method that asks for data to choose experts by: the first ones of every layer, as many as it may take."""
    if not method.calibration_rows:
        return
    share = method.config.top_p if share is None else share
    chosen = {
        str(decoder_depth(layer)): list(range(max(1, math.ceil(share * layer.num_weighted))))
        for layer in moe_layers(model)
    }
    method.load_state_dict({**method.state_dict(), "experts": chosen})
