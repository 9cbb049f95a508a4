"""`budget: recycle`: at the start the base bit for bit, then by the formula; saved, loaded, copied, detached."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from expert_condenser import METHODS, MethodConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError, RoutingError, TrainingError, UnsupportedModelError
from expert_condenser.functional.gate_mass import recycled_gates
from expert_condenser.functional.routing import RoutingConfig, check_condensers
from expert_condenser.moe.choices import on_choice
from expert_condenser.moe.recycled import gates_of
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.run import train
from expert_condenser.training.trainer import split_by_factor
from tests.runs import assert_identical, config, interrupted, make_base

RECYCLE = RoutingConfig(budget="recycle")
FAMILIES = ("olmoe", "mixtral", "qwen3_moe", "deepseek_v2", "gpt_oss", "inkling_text", "gemma4_text")
RUN = {
    "num_train_epochs": 1.0,
    "budget": "recycle",
    "one_phase": True,
    "condenser_rule": "random",
    "bias_step_condense": 0.0,
    "num_condensers": "2",
    "bias_step": 1e-3,
}
IDS = [1, 6]


def recycled(family, opened=False, implementation="eager"):
    model = tiny_model(family)
    model.set_experts_implementation(implementation)
    attach(model, RECYCLE)
    set_condensers(model, dict.fromkeys(range(len(moe_layers(model))), IDS))
    if opened:
        for seed, layer in enumerate(moe_layers(model)):
            generator = torch.Generator().manual_seed(seed)
            for gate in gates_of(layer.router).values():
                gate.data.copy_(torch.randn(gate.shape, generator=generator) * 0.3)
    return model


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch(2, 9)).logits


@pytest.mark.parametrize("implementation", ["eager", "sorted_mm", "grouped_mm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_start_it_is_the_base_bit_for_bit(family, implementation):
    stock = tiny_model(family)
    stock.set_experts_implementation(implementation)
    assert torch.equal(logits_of(recycled(family, implementation=implementation)), logits_of(stock))
    assert not torch.equal(logits_of(recycled(family, True, implementation)), logits_of(stock))


def test_the_gates_by_hand():
    hidden = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.25], [0.5, 0.5]], dtype=torch.float64)
    offset, direction = torch.tensor([0.1]).double(), torch.tensor([[0.2, 0.3]]).double()
    found = recycled_gates(hidden, weights, offset.requires_grad_(), direction)
    wanted = torch.tensor([[0.75], [1.0]]).double() * torch.tanh(torch.tensor([[0.9], [-0.2]]).double())
    assert torch.allclose(found, wanted, rtol=0, atol=1e-7)
    found.sum().backward()
    slopes = torch.tensor([0.75, 1.0]).double() * (1 - torch.tanh(torch.tensor([0.9, -0.2]).double()) ** 2)
    assert offset.grad.item() == pytest.approx(slopes.sum().item(), abs=1e-7)


@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
def test_the_layer_is_the_formula(family):
    model = recycled(family, opened=True)
    layer, heard, seen = moe_layers(model)[1], [], []
    on_choice(layer, heard.append)
    layer.experts.register_forward_hook(lambda experts, args, output: seen.append((args[0], output)))
    logits_of(model)
    (hidden, output), choice, router = seen[0], heard[0], layer.router
    dense = torch.stack(
        [layer.experts.forward(hidden, torch.full((len(hidden), 1), i), torch.ones(len(hidden), 1)) for i in range(8)],
        dim=1,
    )
    wanted = torch.zeros_like(output)
    for token in range(len(hidden)):
        mass = choice.weights[token].sum()
        for weight, expert in zip(choice.weights[token], choice.indices[token], strict=True):
            wanted[token] += weight * dense[token, expert]
        for slot, expert in enumerate(IDS):
            inside = router.recycled_offset[slot] + router.recycled_direction[slot] @ hidden[token]
            wanted[token] += mass * torch.tanh(inside) * dense[token, expert]
    assert torch.allclose(output, wanted, rtol=0, atol=1e-5)
    assert choice.indices.shape[1] == 3, "K slots: the condensers take none"


def test_gradients_at_the_start():
    model = recycled("olmoe")
    ids = tiny_batch(2, 9)
    model(input_ids=ids, labels=ids).loss.backward()
    stock = tiny_model("olmoe")
    stock(input_ids=ids, labels=ids).loss.backward()
    for layer, plain in zip(moe_layers(model), moe_layers(stock), strict=True):
        assert all((gate.grad != 0).any(-1).all() for gate in gates_of(layer.router).values())
        found, wanted = (x.experts.down_proj.grad for x in (layer, plain))
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-8), "through gates of 0 comes nothing yet"
    opened = recycled("olmoe", opened=True)
    opened(input_ids=ids, labels=ids).loss.backward()
    grads = moe_layers(opened)[0].experts.down_proj.grad
    assert (grads[IDS].flatten(1).abs().sum(-1) > 0).all()


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_saved_loaded_copied_and_detached(family, tmp_path):
    model = recycled(family, opened=True)
    expected = logits_of(model)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, experts_implementation="eager")
    assert torch.equal(logits_of(loaded), expected)
    for layer, old in zip(moe_layers(loaded), moe_layers(model), strict=True):
        assert torch.equal(layer.router.recycled_direction, old.router.recycled_direction)
        assert layer.router.recycled_direction.abs().sum() > 0
    twin = copy.deepcopy(model)
    moe_layers(model)[0].router.recycled_offset.data.zero_()
    assert torch.equal(logits_of(twin), expected), "a copy has gates of its own"
    assert not torch.equal(logits_of(model), expected)
    detach(twin)
    stock = tiny_model(family)
    stock.set_experts_implementation("eager")
    assert torch.equal(logits_of(twin), logits_of(stock))
    assert twin.state_dict().keys() == tiny_model(family).state_dict().keys()


def test_a_missing_gate_is_an_error(tmp_path):
    recycled("olmoe").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.gate.recycled_offset"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="recycled_offset"):
        load_model(tmp_path)


def prepared(family="olmoe", **options):
    method = METHODS["condenser"](
        MethodConfig(**{k: v for k, v in {**RUN, **options}.items() if k != "num_train_epochs"})
    )
    model = tiny_model(family)
    method.prepare(model)
    return method, model


@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
@pytest.mark.parametrize("kappa", [0.0, 0.1, 1.0, None])
def test_the_rest_moves_at_kappa_times_the_rate(family, kappa):
    """With SGD a step is the rate times the gradient, which is that of the plain model, since all gates are 0."""
    method, model = prepared(family, rest_learning_rate_factor=kappa)
    method.prepare(model)  # a second time changes nothing
    rate, ids = 0.5, tiny_batch(3, 11)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    split_by_factor(optimizer, model, method.learning_rate_factors(model))
    stock = tiny_model(family)
    stock(input_ids=ids, labels=ids).loss.backward()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    state, factor = model.state_dict(), 1.0 if kappa is None else kappa
    for index, layer in enumerate(moe_layers(stock)):
        chosen = moe_layers(model)[index].router.condenser_ids.tolist()
        for name, weight in layer.experts.named_parameters():
            factors = torch.full((8, 1, 1), factor)
            factors[chosen] = 1.0
            moved = state[f"{layer.block}.experts.{name}"] - weight
            assert torch.allclose(moved, -rate * factors * weight.grad, rtol=0, atol=1e-6)
            assert weight.grad[chosen].abs().max() > 1e-4, "control: they do move"
        for name, weight in layer.router.named_parameters():
            moved = state[f"{layer.name}.{name}"] - weight
            assert torch.allclose(moved, -rate * factor * weight.grad, rtol=0, atol=1e-6)
        assert state[f"{layer.name}.recycled_direction"].abs().sum() > 0
    embedding = "model.embed_tokens.weight"
    grads = stock.get_parameter(embedding).grad
    assert torch.allclose(state[embedding] - stock.get_parameter(embedding), -rate * factor * grads, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kappa", [0.0, 0.3, None])
def test_a_run_resumes(kappa, tmp_path):
    base, options = make_base(tmp_path), {**RUN, "rest_learning_rate_factor": kappa}
    del options["bias_step"]
    train(without_gamma(base, tmp_path / "whole", options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.runs.config", lambda base, folder, **o: without_gamma(base, folder, o))
        interrupted(base, tmp_path / "cut", "condense", "on_step_begin", 2, **options)
    train(without_gamma(base, tmp_path / "cut", {**options, "resume": True}))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases=("condense",))
    model, start = load_model(tmp_path / "whole" / "model"), load_model(base / "model")
    assert all((layer.router.recycled_direction != 0).any() for layer in moe_layers(model))
    same = torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert same == (kappa == 0)


def without_gamma(base, folder, options):
    return config(base, folder, **{**options, "bias_step": 1e-3})


def test_the_number_of_condensers_is_free_below_e():
    check_condensers(7, 8, 3, RECYCLE)
    with pytest.raises(RoutingError, match="at most 7 condensers; got 8"):
        check_condensers(8, 8, 3, RECYCLE)


@pytest.mark.parametrize("family", ["llama4_text", "dbrx", "phimoe", "longcat_flash"])
def test_families_without_such_a_sum_are_refused(family):
    with pytest.raises(UnsupportedModelError, match="budget 'recycle' adds experts to a sum of outputs"):
        attach(tiny_model(family), RECYCLE)


def test_options_without_a_meaning(tmp_path):
    with pytest.raises(TrainingError, match="is of budget 'recycle'"):
        METHODS["condenser"].Config(rest_learning_rate_factor=0.1)
    with pytest.raises(TrainingError, match=r"0 to 1; got 1\.5"):
        METHODS["condenser"].Config(rest_learning_rate_factor=1.5, budget="recycle")
    with pytest.raises(RoutingError, match="leave condenser_mass and"):
        RoutingConfig(budget="recycle", condenser_mass="keep")
    with pytest.raises(TrainingError, match="which an adapter does not save"):
        train(without_gamma(make_base(tmp_path), tmp_path / "run", {**RUN, "lora": "experts"}))


@pytest.mark.parametrize("kappa", [None, 0.3])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_layer_has_the_same_gradients(reentrant, kappa):
    """Both the gates' and the condensers', whose slices are read twice in a forward."""
    found = []
    for checkpointing in (False, True):
        _, model = prepared(rest_learning_rate_factor=kappa)
        for layer in moe_layers(model):
            for gate in gates_of(layer.router).values():
                gate.data.fill_(0.1)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        ids = tiny_batch(2, 9)
        model(input_ids=ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("recycled_offset" in name for name in found[0])
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-8), name
        assert gradient.abs().max() > 0
