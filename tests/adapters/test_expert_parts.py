"""An adapter on fused experts: frozen parts stay so through copies, loads and moves; norms are of what acts."""

import copy

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, RoutingConfig, moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.expert_parts import keep_adapters_of, with_adapter
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.errors import TrainingError
from expert_condenser.moe.layers import expert_norms
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.testing import tiny_batch, tiny_model

CHOSEN = [1, 5]
PAPER_FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
every_family = pytest.mark.parametrize("family", PAPER_FAMILIES)


def adapted(family, routing=None, rank=2):
    options = AdapterConfig(lora="experts", lora_r=rank, lora_alpha=2 * rank)
    model = tiny_model(family)
    model.set_experts_implementation("eager")  # in bfloat16, `grouped_mm` wants widths in steps of 8
    torch.manual_seed(0)
    return add_adapter(model, options, ["experts"], routing)


def frozen(family):
    model = adapted(family)
    for layer in moe_layers(model):
        keep_adapters_of(layer, CHOSEN)
    return model


def parts_of_b(model):
    """`{name: (out, r, E)}` of every lora_B."""
    return {name: p.detach().reshape(len(p), -1, 8) for name, p in model.named_parameters() if "lora_B" in name}


def learners(model, steps=2):
    """The experts for which the adapter is not zero after some steps with weight decay."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for seed in range(steps):
        optimizer.zero_grad()
        ids = tiny_batch(4, 12, seed=seed)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return {i for part in parts_of_b(model).values() for i in range(8) if part[..., i].any()}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=tiny_batch(2, 9)).logits


def give_b(model, experts=range(8)):
    """A trained adapter: B is not zero for these experts."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(len(parameter), parameter.shape[1] // 8, 8, generator=generator)
            others = [i for i in range(8) if i not in experts]
            values[..., others] = 0.0
            parameter.data = values.reshape(parameter.shape).to(parameter.dtype)
    return model


def reassigned(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


WAYS = {
    "as it is": lambda model: model,
    "a deep copy": copy.deepcopy,
    "load_state_dict(assign=True)": reassigned,
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "merged and unmerged": lambda model: (model.merge_adapter(), model.unmerge_adapter(), model)[-1],
    "disabled and enabled": lambda model: (
        model.base_model.disable_adapter_layers(),
        model.base_model.enable_adapter_layers(),
        model,
    )[-1],
}


@pytest.mark.parametrize("way", WAYS)
@every_family
def test_only_the_chosen_experts_learn(family, way):
    assert learners(WAYS[way](frozen(family))) == set(CHOSEN)


@every_family
def test_control_without_a_choice_all_experts_learn(family):
    assert learners(adapted(family)) == set(range(8))


def test_control_a_gradient_hook_is_lost_by_a_copy():
    model = adapted("olmoe")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            keep = torch.tensor([i in CHOSEN for i in range(8)]).repeat(parameter.shape[1] // 8)
            parameter.register_hook(lambda gradient, keep=keep: gradient * keep)
    assert learners(copy.deepcopy(model)) == set(range(8))
    assert learners(model) == set(CHOSEN)


@every_family
def test_forward_and_the_gradients_of_the_chosen_are_as_without_the_freeze(family):
    models = give_b(adapted(family), CHOSEN), give_b(adapted(family), CHOSEN)
    for layer in moe_layers(models[0]):
        keep_adapters_of(layer, CHOSEN)
    assert torch.equal(logits_of(models[0]), logits_of(models[1]))
    ids = tiny_batch(4, 12)
    for model in models:
        model.train()(input_ids=ids, labels=ids).loss.backward()
    others = [i for i in range(8) if i not in CHOSEN]
    pairs = zip(*(dict(model.named_parameters()).items() for model in models), strict=True)
    compared = 0
    for (name, own), (_, free) in pairs:
        if "lora_B" in name:
            own, free = (p.grad.reshape(len(p), -1, 8) for p in (own, free))
            assert torch.allclose(own[..., CHOSEN], free[..., CHOSEN], rtol=1e-5, atol=1e-8)
            assert not own[..., others].any()
            assert free[..., others].any(), "control"
            compared += 1
        elif "lora_A" in name:  # B is zero there, so A of the others has no gradient in either
            assert torch.allclose(own.grad, free.grad, rtol=1e-5, atol=1e-8)
    assert compared == 2 * len(moe_layers(models[0]))


def test_the_state_has_the_keys_of_a_plain_adapter_and_moves_with_the_model():
    model = frozen("olmoe")
    assert model.state_dict().keys() == adapted("olmoe").state_dict().keys()
    model.to("meta")
    assert {layer.experts.trained_experts.device.type for layer in moe_layers(model)} == {"meta"}


def test_an_adapter_that_has_learnt_for_other_experts_is_refused():
    model = give_b(adapted("olmoe"), [1, 5, 6])
    with pytest.raises(TrainingError, match=r"not zero on other experts than \[1, 5\], which train; begin with a new"):
        keep_adapters_of(moe_layers(model)[0], CHOSEN)
    for layer in moe_layers(model):
        keep_adapters_of(layer, [6, 5, 1])


# Norms.


@pytest.mark.parametrize("rank", [1, 2])
@every_family
def test_norms_are_those_of_the_merged_weights(family, rank):
    model = give_b(adapted(family, rank=rank))
    found = [expert_norms(with_adapter(layer)) for layer in moe_layers(model)]
    base = [expert_norms(layer) for layer in moe_layers(tiny_model(family))]
    with model.disable_adapter():
        disabled = [expert_norms(with_adapter(layer)) for layer in moe_layers(model)]
    merged = [expert_norms(layer) for layer in moe_layers(model.merge_and_unload())]
    for own, of_merged, of_base, off in zip(found, merged, base, disabled, strict=True):
        assert torch.allclose(own, of_merged, rtol=1e-5)
        assert not torch.allclose(own, of_base, rtol=1e-2), "control"
        assert torch.equal(off, of_base)


def test_a_layer_without_an_adapter_is_itself():
    layer = moe_layers(tiny_model())[0]
    assert with_adapter(layer) is layer


@every_family
def test_the_norm_rules_choose_by_base_and_adapter(family):
    policy = MethodConfig().routing()
    chosen = []
    for merge in (False, True):
        model = give_b(adapted(family, policy))
        for layer in moe_layers(model):
            layer.router.selection_bias.copy_(torch.arange(8.0))
        made = model.merge_and_unload().requires_grad_() if merge else model
        METHODS["condenser"](MethodConfig(condenser_rule="smallest_norm"), "condense").prepare(made)
        chosen.append(condensers_of(made))
    assert chosen[0] == chosen[1]
    untrained = adapted(family, RoutingConfig())
    METHODS["condenser"](MethodConfig(condenser_rule="smallest_norm"), "condense").prepare(untrained)
    assert condensers_of(untrained) != chosen[0], "control"
