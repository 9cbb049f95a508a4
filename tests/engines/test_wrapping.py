"""FSDP2 and ZeRO-3 gather layer by layer: in every family each MoE layer is in one that is named."""

import pytest

from expert_condenser import moe_layers
from expert_condenser.errors import UnsupportedModelError
from expert_condenser.testing import TINY_CONFIGS, TINY_FAMILIES, tiny_model
from expert_condenser.training.engines.deepspeed import leaves
from expert_condenser.training.engines.fsdp import name_layers

FAMILIES = sorted({**TINY_CONFIGS, **TINY_FAMILIES})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_moe_layer_is_in_a_layer_that_the_model_has(family):
    model = tiny_model(family)
    layers, stock = moe_layers(model), set(model._no_split_modules)
    names = name_layers(model, layers)
    classes = {type(module).__name__ for module in model.modules()}
    assert set(names) == stock & classes == model._no_split_modules
    assert set(leaves(model, layers)) <= classes
    assert tiny_model(family)._no_split_modules == stock, "other models keep theirs"


def test_control_some_families_name_layers_that_a_model_lacks():
    model = tiny_model("qwen3_5_moe_text")
    assert "Qwen3_5MoeVisionBlock" in model._no_split_modules
    assert name_layers(model, moe_layers(model)) == ["Qwen3_5MoeDecoderLayer"]


def test_a_model_without_layers_is_refused():
    model = tiny_model()
    model._no_split_modules = ["NoSuchLayer"]
    with pytest.raises(UnsupportedModelError, match="does not say what a layer of it is"):
        name_layers(model, moe_layers(model))
