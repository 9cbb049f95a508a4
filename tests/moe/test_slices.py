"""Experts that train as slices: the stock model in every forward and file, and nothing of the others moves."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from expert_condenser import moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.moe.slices import SLICES, fused_names, is_sliced, train_slices
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model

IDS = ([5, 1], [0, 7, 3], [])
"""Of the MoE layers in order; the third has none, and `deepseek_v2` has two layers."""
STEPS = 5
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm", "sorted_mm")
every_family = pytest.mark.parametrize("name", TINY_CONFIGS)


def sliced(name="olmoe", implementation="eager", ids=IDS):
    model = tiny_model(name)
    model.set_experts_implementation(implementation)
    for layer, chosen in zip(moe_layers(model), ids, strict=False):
        train_slices(layer, chosen)
    return model


def stock(name="olmoe", implementation="eager"):
    model = tiny_model(name)
    model.set_experts_implementation(implementation)
    return model


def chosen_rows(model):
    """`(name of the fused weight, ids)` of every layer of a stock model, sorted ids: the order of the slices."""
    return [
        (f"{layer.block}.experts.{name}", sorted(ids))
        for layer, ids in zip(moe_layers(model), IDS, strict=False)
        for name in fused_names(layer)
    ]


def slices_of(model):
    return {
        f"{layer.block}.experts.{name}": parameter
        for layer in moe_layers(model)
        if is_sliced(layer)
        for name, parameter in getattr(layer.experts, SLICES).items()
    }


def loss_of(model, seed=0):
    ids = tiny_batch(3, 7, seed=seed)
    return model(input_ids=ids, labels=ids).loss


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch(3, 7)).logits


def trained(model, make, mask=False):
    """`STEPS` steps; with `mask`, of a stock model whose other experts get no gradient."""
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model.train(), seed=step).backward()
        for name, ids in chosen_rows(model) if mask else []:
            gradient = model.get_parameter(name).grad
            others = [i for i in range(len(gradient)) if i not in ids]
            gradient[others] = 0.0
        optimizer.step()
    return optimizer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


# One forward, one backward.


@every_family
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_forward_and_gradients_are_those_of_the_stock_model(name, implementation):
    model, expected = sliced(name, implementation), stock(name, implementation)
    assert torch.equal(logits_of(model), logits_of(expected))
    for each in (model, expected):
        loss = loss_of(each.train())
        loss.backward()
    assert torch.equal(loss_of(model), loss)
    found = slices_of(model)
    rows = [(key, ids) for key, ids in chosen_rows(expected) if ids]
    assert found.keys() == {key for key, _ in rows}
    for key, ids in rows:
        whole = expected.get_parameter(key).grad
        assert found[key].shape == (len(ids), *whole.shape[1:])
        assert torch.equal(found[key].grad, whole[ids])
        assert not torch.equal(found[key].grad, whole[[i - 1 for i in ids]])
    rest = {key: p.grad for key, p in expected.named_parameters() if ".experts." not in key}
    assert all(torch.equal(model.get_parameter(key).grad, gradient) for key, gradient in rest.items())
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == [
        key for key, _ in expected.named_parameters() if ".experts." in key
    ]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_gradient_checkpointing(name, reentrant):
    model, expected = sliced(name), sliced(name)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    passes = []
    moe_layers(model)[0].router.register_forward_hook(lambda *call: passes.append(1))
    for each in (model, expected):
        loss_of(each.train()).backward()
    assert len(passes) == 2, "the layer was recomputed"
    own = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(own[key], p.grad) for key, p in expected.named_parameters() if p.requires_grad)
    assert all(gradient.abs().max() > 0 for gradient in (p.grad for p in slices_of(model).values()))


# Training.


@every_family
def test_slices_train_as_with_masked_gradients_of_all_experts(name):
    model, expected = sliced(name), stock(name)
    trained(model, sgd)
    trained(expected, sgd, mask=True)
    found, start = model.state_dict(), stock(name).state_dict()
    for key, value in expected.state_dict().items():
        assert (found[key] - value).abs().max() < 1e-6
    layer = moe_layers(expected)[0]
    key = f"{layer.block}.experts.{fused_names(layer)[0]}"
    assert (found[key][IDS[0]] - start[key][IDS[0]]).abs().max() > 1e-4


def test_slices_control_all_experts_train():
    model, free = sliced(), stock()
    trained(model, sgd)
    trained(free, sgd)
    key = "model.layers.0.mlp.experts.gate_up_proj"
    assert (model.state_dict()[key] - free.state_dict()[key]).abs().max() > 1e-4


def still(model, start):
    """Whether every expert that was not chosen is as it was, bit for bit."""
    found, before = model.state_dict(), start.state_dict()
    rest = [(key, i) for key, ids in chosen_rows(start) for i in range(8) if i not in ids]
    return all(torch.equal(found[key][i], before[key][i]) for key, i in rest)


@every_family
def test_weight_decay_moves_no_other_expert(name):
    model = sliced(name)
    trained(model, adamw)
    assert still(model, stock(name))
    assert not torch.equal(logits_of(model.eval()), logits_of(stock(name)))


def test_weight_decay_control_a_mask_is_not_enough():
    model = stock()
    trained(model, adamw, mask=True)
    assert not still(model, stock())


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_adamw_on_slices_alone_equals_adamw_with_masked_gradients(name):
    """With everything else still; without decay, which would move the others in the reference."""
    model, expected = sliced(name), stock(name)
    for each in (model, expected):
        for key, parameter in each.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and ".experts." in key)

    def without_decay(parameters):
        return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)

    trained(model, without_decay)
    trained(expected, without_decay, mask=True)
    found, masked, start = model.state_dict(), expected.state_dict(), stock(name).state_dict()
    assert all((found[key] - value).abs().max() < 1e-6 for key, value in masked.items())
    moved = {key for key, value in start.items() if not torch.equal(found[key], value)}
    assert moved == {key for key, ids in chosen_rows(expected) if ids}


def test_the_optimizer_holds_slices_only():
    model = sliced()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and ".experts." in key)
    optimizer = trained(model, adamw)
    per_expert = 2 * 24 * 32 + 32 * 24
    moments = [state[key].numel() for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert sum(moments) == 2 * (len(IDS[0]) + len(IDS[1])) * per_expert
    assert sum(p.grad.numel() for p in model.parameters() if p.grad is not None) == 5 * per_expert


# The weights that others see.


@every_family
def test_a_state_dict_is_a_stock_one_with_the_current_values(name, tmp_path):
    model, start = sliced(name), stock(name)
    assert model.state_dict().keys() == start.state_dict().keys()
    trained(model, sgd)
    with torch.no_grad():
        for parameter in slices_of(model).values():
            parameter.add_(0.5)  # as by an optimizer step with no forward behind it
    state = model.state_dict()
    assert state.keys() == start.state_dict().keys()
    for key, ids in chosen_rows(start):
        others = [i for i in range(8) if i not in ids]
        assert torch.equal(state[key][others], start.state_dict()[key][others])
        if ids:
            assert torch.equal(state[key][ids], slices_of(model)[key])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager").eval()
    assert type(loaded) is type(start)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(logits_of(loaded), logits_of(model.eval()))
    assert not torch.equal(logits_of(loaded), logits_of(start))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
def test_evaluation_sees_a_slice_that_has_just_changed(name, implementation):
    model, expected = sliced(name, implementation), stock(name, implementation)
    before = logits_of(model)
    key, ids = next((key, ids) for key, ids in chosen_rows(expected) if key.endswith("down_proj"))
    with torch.no_grad():
        slices_of(model)[key][1] += 0.25
        expected.get_parameter(key)[ids[1]] += 0.25
    assert torch.equal(logits_of(model), logits_of(expected))
    assert not torch.equal(logits_of(model), before)


def test_half_precision_slices_follow_the_model():
    model, expected = sliced().to(torch.bfloat16), stock().to(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in slices_of(model).values())
    assert torch.equal(logits_of(model), logits_of(expected))
    loss_of(model.train()).backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in slices_of(model).values())


# What is refused.


@pytest.mark.parametrize("ids", [[1, 1], [0, 8], [-1]])
def test_ids_that_name_no_expert_or_one_twice(ids):
    model = tiny_model()
    layer = moe_layers(model)[1]
    with pytest.raises(TrainingError) as raised:
        train_slices(layer, ids)
    assert str(raised.value) == (f"model.layers.1.mlp.gate: the experts to train are distinct ids in 0..7; got {ids}")
    assert not is_sliced(layer)
    assert all(p.requires_grad for p in model.parameters()), "nothing was changed"


def test_no_ids_freeze_all():
    model = tiny_model()
    layer = moe_layers(model)[0]
    train_slices(layer, [])
    assert not is_sliced(layer)
    assert type(layer.experts) is type(moe_layers(tiny_model())[0].experts)
    assert [p.requires_grad for p in layer.experts.parameters()] == [False, False]
    assert [p.requires_grad for p in moe_layers(model)[1].experts.parameters()] == [True, True]


def test_all_ids_train_the_whole_layer():
    model = sliced(ids=(list(range(8)),) * 3)
    expected = stock()
    trained(model, sgd)
    trained(expected, sgd)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.state_dict().items())


def test_a_parameter_without_a_slice_per_expert_is_refused():
    model = tiny_model()
    layer = moe_layers(model)[0]
    assert fused_names(layer) == ("gate_up_proj", "down_proj")
    layer.experts.extra = torch.nn.Parameter(torch.zeros(5, 8))
    with pytest.raises(TrainingError, match=r"E = 8 of each; model.layers.0.mlp.experts has extra besides"):
        train_slices(layer, [0])


def test_the_layout_of_every_family():
    with_biases = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    for name in TINY_CONFIGS:
        layer = moe_layers(tiny_model(name))[0]
        assert fused_names(layer) == (with_biases if name == "gpt_oss" else ("gate_up_proj", "down_proj"))
        shapes = [tuple(layer.experts.get_parameter(key).shape) for key in ("gate_up_proj", "down_proj")]
        assert (shapes[0][2] == 32) == (name != "gpt_oss"), "gpt_oss has (E, in, out), all others (E, out, in)"


def test_after_a_load_the_slices_are_those_of_what_was_loaded():
    model, other = tiny_model(), tiny_model(seed=1)
    for layer in moe_layers(model):
        train_slices(layer, [1, 5])
    model.load_state_dict(other.state_dict())
    ids = tiny_batch(2, 7)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, other(input_ids=ids).logits)
    model.load_state_dict(model.state_dict())


@every_family
def test_a_load_of_other_weights_keeps_the_step(name):
    """An optimizer step moves the slices; the fused weights follow in the next forward, and a load comes before it."""
    model = sliced(name)
    rest = {key: value.clone() for key, value in model.state_dict().items() if ".experts." not in key}
    trained(model, sgd)
    moved = {key: value.detach().clone() for key, value in slices_of(model).items()}
    model.load_state_dict(rest, strict=False)
    assert all(torch.equal(value, moved[key]) for key, value in slices_of(model).items())
    key = next(iter(moved))
    model.load_state_dict({key: stock(name).state_dict()[key]}, strict=False)
    found = slices_of(model)
    assert not torch.equal(found[key], moved[key]), "control: what is loaded replaces the step"
    assert all(torch.equal(value, moved[other]) for other, value in found.items() if other != key)
