"""Numbers of parameters: those of a real model, as its method trains it."""

import pytest

from expert_condenser.moe.layers import moe_layers
from expert_condenser.planning.flops import flops_per_token
from expert_condenser.planning.sizes import sizes_of
from expert_condenser.testing import tiny_config, tiny_model
from tests.finetune import make_method

EXPERT = 3 * 32 * 24
"""Of the tiny OLMoE: projections gate, up and down."""


def sizes(method="sft", name="olmoe", **options):
    model = tiny_model(name)
    return model, sizes_of(model, make_method(method, model, **options))


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v2", "gpt_oss"])
def test_total_and_trainable_are_those_of_the_model(name):
    model, found = sizes(name=name)
    assert found.total == found.trainable == sum(p.numel() for p in model.parameters())
    assert sum(unit.parameters for unit in found.units) == found.total
    assert found.buffers == sum(b.numel() * b.element_size() for b in model.buffers())


def test_a_token_passes_k_of_e_experts():
    _, found = sizes()
    assert found.routed == 3 * 8 * EXPERT
    assert found.total - found.active == 3 * 5 * EXPERT


def test_esft_trains_its_slices_and_they_are_no_more_parameters():
    _, found = sizes("esft_gate", top_p=1.0)
    _, plain = sizes()
    assert found.trainable == 3 * 2 * EXPERT
    assert (found.total, found.active) == (plain.total, plain.active)


def test_frozen_routers_do_not_train():
    model, found = sizes("frozen_router")
    routers = sum(p.numel() for layer in moe_layers(model) for p in layer.router.parameters())
    assert found.total - found.trainable == routers > 0


def test_the_root_is_what_is_in_no_layer():
    model, found = sizes()
    assert found.root.parameters == sum(p.numel() for n, p in model.named_parameters() if ".layers." not in n)
    assert len(found.largest_units()) == 3


def test_six_times_the_active_parameters_and_attention():
    config, length = tiny_config("olmoe"), 100
    _, found = sizes()
    attention = 6 * 3 * 32 * length  # three layers, two heads of 16
    assert flops_per_token(found, config, length, None, checkpointing=False) == 6 * found.active + attention
    again = flops_per_token(found, config, length, None, checkpointing=True)
    assert again == round((6 * found.active + attention) * 8 / 6)


def test_densemixer_passes_all_experts_and_frozen_weights_cost_less():
    config = tiny_config("olmoe")
    _, found = sizes()
    plain = flops_per_token(found, config, 10, None, checkpointing=False)
    assert flops_per_token(found, config, 10, "lean", checkpointing=False) == plain + 2 * found.routed
    assert flops_per_token(found, config, 10, "plain", checkpointing=False) > plain + 2 * found.routed
    _, frozen = sizes("esft_gate", top_p=1.0)
    assert flops_per_token(frozen, config, 10, None, checkpointing=False) < plain
