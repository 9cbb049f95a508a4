"""Of the routers only the condensers' rows train; the others stay, to the bit."""

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, attach, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.testing import tiny_batch, tiny_model

OPTIONS = {"bias_step": 0.1, "bias_step_condense": 0.0}


def trained(family, **options):
    """A model after two steps of phase 2 with a strong weight decay, its method, and the weights before."""
    method = METHODS["condenser"](MethodConfig(**OPTIONS, **options), "condense")
    model = attach(tiny_model(family), method.routing)
    for index, layer in enumerate(moe_layers(model)):
        layer.router.selection_bias.copy_(torch.arange(8.0).roll(index))
    method.prepare(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for seed in (0, 1):
        ids = tiny_batch(2, 9, seed=seed)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step(torch.ones(len(method.layers), 8, dtype=torch.int64))
    return model, method, before


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "qwen3_moe", "gpt_oss", "gemma4_text"])
def test_only_the_condensers_rows_move(family):
    model, method, before = trained(family, condenser_rows_only=True)
    seen = set()
    for index, layer in enumerate(method.layers):
        chosen = set(condensers_of(model)[index])
        for name, parameter in layer.router.named_parameters():
            old = before[f"{layer.name}.{name}"]
            if len(parameter) == 8 and parameter.requires_grad:
                moved = {row for row in range(8) if not torch.equal(parameter[row], old[row])}
                assert moved == chosen
                seen.add(name)
            else:
                assert torch.equal(parameter, old)
    assert seen == ({"weight", "bias"} if family == "gpt_oss" else seen)
    assert seen


def test_control_without_the_option_all_rows_move():
    _, method, before = trained("olmoe")
    layer = method.layers[0]
    assert (layer.router.weight != before[f"{layer.name}.weight"]).any(dim=-1).all()


def test_where_no_row_would_train():
    with pytest.raises(TrainingError, match="there are no condensers"):
        trained("olmoe", condenser_rows_only=True, num_condensers="0")
    with pytest.raises(TrainingError, match="router is 'freeze'"):
        METHODS["condenser"].Config(condenser_rows_only=True, router="freeze")
    with pytest.raises(TrainingError, match="one_phase has one"):
        METHODS["condenser"].Config(
            one_schedule=True, one_phase=True, condenser_rule="explicit", condensers_file=__file__
        )
