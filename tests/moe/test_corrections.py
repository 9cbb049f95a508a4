"""Where every family's correction bias is, and whether its class rounds it."""

import pytest
import torch

from expert_condenser import moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.corrections import ROUNDED, correction_of
from expert_condenser.moe.families import FAMILIES
from expert_condenser.testing import tiny_batch, tiny_model

CORRECTED = [name for name, family in FAMILIES.items() if family.rule.correction is not None]


@pytest.mark.parametrize("family", CORRECTED)
def test_it_decides_who_is_chosen_and_stock_classes_round_it_or_do_not(family, tmp_path, recorded_routing):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    tensors = [correction_of(model, layer) for layer in moe_layers(model)]
    assert all(tensor.numel() == layer.num_experts for tensor, layer in zip(tensors, moe_layers(model), strict=True))
    for tensor in tensors:
        tensor.data.flatten()[2] = 100.0
    with recorded_routing(model) as calls, torch.no_grad():
        model(input_ids=tiny_batch(), use_cache=False)
    assert all((call[-1] == 2).any(-1).all() for call in calls), "expert 2 is always chosen"
    loaded = load_model(tmp_path, "bfloat16")
    kept = {correction_of(loaded, layer).dtype == torch.float32 for layer in moe_layers(loaded)}
    assert kept == {family not in ROUNDED}


def test_a_family_without_one_says_so():
    model = tiny_model("olmoe")
    with pytest.raises(UnsupportedModelError, match="no correction bias of its own"):
        correction_of(model, moe_layers(model)[0])
