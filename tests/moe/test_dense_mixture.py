"""DenseMixer: the sparse forward bit for bit, the router gradient of the dense mixture, in memory of the sparse one."""

from contextlib import contextmanager

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, attach, detach, moe_layers
from expert_condenser.errors import TrainingError
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model

TOP_K, ROWS, LENGTH = 3, 3, 7
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm", "sorted_mm")
every_family = pytest.mark.parametrize("name", TINY_CONFIGS)


@pytest.fixture
def float64(monkeypatch):
    """The families' own casts to float32 become casts to float64: what is left is float64's rounding."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def mixed(name, mixer=None, implementation="eager", dtype=torch.float64, **overrides):
    """A tiny model in training mode, prepared by `densemixer`, or by `sft` where `mixer` is None."""
    model = tiny_model(name, **overrides)
    model.set_experts_implementation(implementation)
    model = model.to(dtype).train()
    method = METHODS["sft"]() if mixer is None else METHODS["densemixer"](MethodConfig(mixer=mixer))
    method.prepare(model)
    return model


def gradients(model, ids=None):
    """Of every parameter, by the loss of a batch."""
    ids = tiny_batch(ROWS, LENGTH) if ids is None else ids
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(found, expected):
    """Of any gradient, relative to the largest of its tensor."""
    assert found.keys() == expected.keys()
    scale = {name: value.abs().max().item() or 1.0 for name, value in expected.items()}
    return {name: (found[name] - value).abs().max().item() / scale[name] for name, value in expected.items()}


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=tiny_batch(ROWS, LENGTH)).logits


# Two implementations and a formula.


@every_family
def test_lean_and_plain_have_the_same_gradients(name, float64):
    lean, plain, sft = (gradients(mixed(name, mixer)) for mixer in ("lean", "plain", None))
    assert all(value.dtype == torch.float64 for value in lean.values())
    assert max(largest_difference(lean, plain).values()) < 1e-12
    layers = moe_layers(tiny_model(name))
    control = largest_difference(sft, plain)
    assert all(control[f"{layer.name}.weight"] > 1e-2 for layer in layers), "every router learns something else"
    of_last = [key for key in control if key.startswith(f"{layers[-1].block}.experts.")]
    assert len(of_last) >= 2
    assert all(control[key] < 1e-12 for key in of_last), "experts learn from their own tokens only"
    of_first = [key for key in control if key.startswith(f"{layers[0].block}.experts.")]
    assert all(control[key] > 1e-6 for key in of_first), "of earlier layers from what later routers sent back"


def block_of(name, mixer):
    """The first MoE layer of a model, and the block around it."""
    model = mixed(name, mixer)
    layer = moe_layers(model)[0]
    return model, layer, model.get_submodule(layer.block)


def run_block(block, hidden):
    output = block(hidden)
    return output[0] if isinstance(output, tuple) else output


def by_hand(layer, hidden, direction, dense=True):
    """Section 6 of docs/method.md: dL/dz of a block's router for the loss `sum(y * direction)`, of all experts or K.

    With `G_i = <E_i(x), direction>` and n = the sum of the chosen p (1 where the family does not normalise):
    dL/dp_j = (G_j - [j chosen] sum_{i chosen} G_i p_i / n) / n, times the family's scale, and softmax behind it.
    """
    router, num_experts = layer.router, layer.num_experts
    with torch.no_grad():
        bias = getattr(router, "bias", torch.zeros(num_experts, dtype=hidden.dtype))
        p = torch.softmax(hidden @ router.weight.T + bias, dim=-1)
        chosen = torch.zeros_like(p).scatter(1, p.topk(TOP_K).indices, 1.0)
        inner = torch.zeros_like(p)
        for expert in range(num_experts):
            everyone = torch.full((len(hidden), 1), expert)
            output = layer.experts.forward(hidden, everyone, hidden.new_ones(len(hidden), 1))
            inner[:, expert] = (output * direction).sum(dim=-1)
        inner = inner if dense else inner * chosen
        if layer.scoring.normalize or layer.scoring.function == "topk_softmax":
            n = (p * chosen).sum(dim=-1, keepdim=True)
            mean = (inner * p * chosen).sum(dim=-1, keepdim=True) / n
            dp = (inner - chosen * mean) / n
        else:
            dp = inner * layer.scoring.scale
        assert int(chosen.sum()) == len(hidden) * TOP_K
        return p * (dp - (dp * p).sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("name", ["olmoe", "olmoe_normalized", "mixtral", "deepseek_v2", "gpt_oss"])
@pytest.mark.parametrize("mixer", ["lean", "plain"])
def test_the_router_gradient_of_one_block_by_hand(name, mixer, float64):
    generator = torch.Generator().manual_seed(5)
    hidden, direction = torch.randn(2, 11, 32, generator=generator, dtype=torch.float64)
    found = []
    for way in (mixer, None):
        _, layer, block = block_of(name, way)
        assert layer.scoring.normalize == (name in ("olmoe_normalized", "mixtral"))
        (run_block(block, hidden[None]) * direction).sum().backward()
        found.append(layer.router.weight.grad)
    expected = by_hand(layer, hidden, direction).T @ hidden
    scale = expected.abs().max()
    assert ((found[0] - expected).abs().max() / scale) < 1e-12
    assert ((found[1] - expected).abs().max() / scale) > 1e-2, "control: plain fine-tuning"
    sparse = by_hand(layer, hidden, direction, dense=False).T @ hidden
    assert ((found[1] - sparse).abs().max() / scale) < 1e-12


@pytest.mark.parametrize("mixer", ["lean", "plain"])
def test_experts_get_the_sparse_gradient_and_the_input_what_the_router_sends_back(mixer, float64):
    generator = torch.Generator().manual_seed(6)
    hidden, direction = torch.randn(2, 11, 32, generator=generator, dtype=torch.float64)
    of_experts, of_input = [], []
    for way in (mixer, None):
        _, layer, block = block_of("olmoe", way)
        given = hidden[None].clone().requires_grad_(True)
        (run_block(block, given) * direction).sum().backward()
        of_experts.append([p.grad for p in layer.experts.parameters()])
        of_input.append(given.grad[0])
    for found, expected in zip(*of_experts, strict=True):
        assert (found - expected).abs().max() / expected.abs().max() < 1e-12
    dense, sparse = (by_hand(layer, hidden, direction, dense=dense) for dense in (True, False))
    more = (dense - sparse) @ layer.router.weight.detach()
    scale = of_input[0].abs().max()
    assert (of_input[0] - of_input[1] - more).abs().max() / scale < 1e-12
    assert more.abs().max() / scale > 1e-2


# The forward.


@every_family
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_forward_is_the_sparse_one_bit_for_bit(name, implementation):
    ids = tiny_batch(ROWS, LENGTH)
    stock = tiny_model(name).train()
    stock.set_experts_implementation(implementation)
    expected = stock(input_ids=ids).logits
    for mixer in ("lean", None):
        model = mixed(name, mixer, implementation, torch.float32)
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_the_forward_control_another_number_of_experts():
    other = mixed("olmoe", "lean", dtype=torch.float32, num_experts_per_tok=TOP_K + 1)
    assert not torch.equal(logits_of(other), logits_of(mixed("olmoe", dtype=torch.float32)))


@every_family
def test_plain_has_the_value_of_the_sparse_forward(name, float64):
    ids = tiny_batch(ROWS, LENGTH)
    found, expected = (mixed(name, mixer)(input_ids=ids).logits for mixer in ("plain", None))
    assert (found - expected).abs().max() / expected.abs().max() < 1e-12


@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm", "sorted_mm"])
@every_family
def test_experts_implementations_have_the_same_gradients(name, implementation, float64, monkeypatch):
    """For float64 the grouped product is transformers' own loop, torch's has none."""
    monkeypatch.setattr("transformers.integrations.moe._can_use_grouped_mm", lambda *args: False)
    found, expected = gradients(mixed(name, "lean", implementation)), gradients(mixed(name, "lean"))
    assert max(largest_difference(found, expected).values()) < 1e-12


@pytest.mark.parametrize("mixer", ["lean", "plain"])
def test_evaluation_is_untouched(mixer):
    model, stock = mixed("olmoe", mixer, dtype=torch.float32), tiny_model()
    stock.set_experts_implementation("eager")
    assert torch.equal(logits_of(model), logits_of(stock)), "in training mode without graph"
    assert torch.equal(logits_of(model.eval()), logits_of(stock))
    found, expected = gradients(model), gradients(stock)
    assert all(torch.equal(found[key], value) for key, value in expected.items()), "also a gradient taken in eval mode"
    again = gradients(model.train())
    assert not torch.equal(again["model.layers.0.mlp.gate.weight"], expected["model.layers.0.mlp.gate.weight"])
    routers = [layer.router for layer in moe_layers(model)]
    assert all(router.mixture is None for router in routers), "nothing is left behind"


# How a step is computed.


@pytest.mark.parametrize("mixer", ["lean", "plain"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["olmoe_normalized", "deepseek_v2", "gpt_oss"])
def test_gradient_checkpointing(name, reentrant, mixer, float64):
    expected = gradients(mixed(name, mixer))
    model = mixed(name, mixer)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients(model)
    assert max(largest_difference(found, expected).values()) < 1e-12
    router = f"{moe_layers(model)[-1].name}.weight"
    model.gradient_checkpointing_disable()
    assert largest_difference(gradients(model.eval()), expected)[router] > 1e-2, "control: without the mixture"
    assert all(layer.router.mixture is None for layer in moe_layers(model))


@pytest.mark.parametrize("mixer", ["lean", "plain"])
def test_accumulated_gradients_are_the_sum(mixer, float64):
    """Two micro-batches, forward and backward in turn, or both forwards first."""
    model, (first, second) = mixed("olmoe", mixer), (tiny_batch(2, 5, seed=seed) for seed in (1, 2))
    alone = [gradients(model, ids) for ids in (first, second)]
    expected = {key: value + alone[1][key] for key, value in alone[0].items()}
    model.zero_grad()
    losses = [model(input_ids=ids, labels=ids).loss for ids in (first, second)]
    for loss in losses:
        loss.backward()
    found = {key: p.grad for key, p in model.named_parameters()}
    assert max(largest_difference(found, expected).values()) < 1e-12
    assert max(largest_difference(alone[0], expected).values()) > 1e-2


@pytest.mark.parametrize("mixer", ["lean", "plain"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_k_experts_per_token_are_counted(mixer, checkpointing):
    model, sft = mixed("olmoe", mixer), mixed("olmoe")
    for each in (model, sft):
        attachment_of(each).watch.detailed = True
        if checkpointing:
            each.gradient_checkpointing_enable({"use_reentrant": False})
        gradients(each)
    for layer, expected in zip(moe_layers(model), moe_layers(sft), strict=True):
        assert int(layer.router.counter.counts.sum()) == ROWS * LENGTH * TOP_K
        assert torch.equal(layer.router.counter.counts, expected.router.counter.counts)
        assert torch.equal(layer.router.counter.gate_mass, expected.router.counter.gate_mass)
        assert 0 < layer.router.counter.gate_mass.sum() < ROWS * LENGTH


# Memory.


@contextmanager
def counted_bytes(model):
    """Bytes of the tensors saved for the backward pass, each storage once; without those of the parameters."""
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = [0]
    kept = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage)  # so that no other storage gets its address
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


TOKENS = 40


def saved(mixer, num_experts, implementation):
    model = tiny_model(num_experts=num_experts, hidden_size=64)
    model.set_experts_implementation(implementation)
    method = METHODS["sft"]() if mixer is None else METHODS["densemixer"](MethodConfig(mixer=mixer))
    method.prepare(model.train())
    block = model.get_submodule(moe_layers(model)[0].block)
    hidden = torch.randn(1, TOKENS, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with counted_bytes(model) as total:
        block(hidden)
    return total[0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_memory_of_lean_is_that_of_sft_and_two_numbers_per_token_and_expert(implementation):
    counts = (8, 32)
    sizes = {mixer: [saved(mixer, count, implementation) for count in counts] for mixer in ("lean", "plain", None)}
    growth = {mixer: large / small for mixer, (small, large) in sizes.items()}
    assert growth["lean"] < 1.6, sizes
    assert growth["plain"] > 3, sizes
    for count, lean, sft in zip(counts, sizes["lean"], sizes[None], strict=True):
        assert 0 < lean - sft <= 2 * 4 * TOKENS * count, sizes


# Putting it on and taking it off.


@pytest.mark.parametrize("mixer", ["lean", "plain"])
def test_detach_leaves_the_stock_model(mixer):
    model, stock = mixed("olmoe", mixer, dtype=torch.float32), tiny_model()
    stock.set_experts_implementation("eager")
    hooks = [len(layer.experts._forward_hooks) for layer in moe_layers(model)]
    assert hooks == [mixer == "lean"] * 3
    gradients(model)
    detach(model)
    for layer, own in zip(moe_layers(model), moe_layers(stock), strict=True):
        assert type(layer.router) is type(own.router)
        assert vars(layer.router).keys() == vars(own.router).keys()
        assert len(layer.experts._forward_hooks) == 0
    found, expected = gradients(model), gradients(stock.train())
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_second_prepare_installs_nothing_twice():
    model = mixed("olmoe", "lean")
    METHODS["densemixer"]().prepare(model)
    assert [len(layer.experts._forward_hooks) for layer in moe_layers(model)] == [1, 1, 1]


def test_a_counted_model_has_no_mixture():
    model = attach(tiny_model())
    assert all(layer.router.mixer is None for layer in moe_layers(model))
    detach(model)


def test_options_without_meaning():
    with pytest.raises(TrainingError, match=r"mixer is one of lean, plain; got 'thin'"):
        METHODS["densemixer"](MethodConfig(mixer="thin"))
    with pytest.raises(TrainingError, match=r"about the gradient of the routers, and none of them trains"):
        METHODS["densemixer"](MethodConfig(router="freeze")).prepare(tiny_model())


def test_under_autocast_lean_computes_as_the_forward_does():
    """Float32 weights, bfloat16 products: in both passes, or lean would be the gradient of another function."""

    def router_gradient(mixer):
        model = tiny_model()
        METHODS["densemixer"](MethodConfig(mixer=mixer)).prepare(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.train()(input_ids=tiny_batch(3, 9), labels=tiny_batch(3, 9)).loss
        loss.backward()
        return torch.cat([layer.router.weight.grad.flatten() for layer in moe_layers(model)])

    plain, lean = router_gradient("plain"), router_gradient("lean")
    assert (plain - lean).norm() < 2e-2 * plain.norm()
