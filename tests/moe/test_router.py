"""The float32 bias, exact counts of real tokens, and a recomputation that repeats the first pass."""

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import CheckpointError, checkpoint
from transformers import AutoModelForCausalLM

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import choose_experts
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.own_types import selection_biases
from expert_condenser.moe.replay import ReplayingCheckpoint
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model

every_family = pytest.mark.parametrize("name", TINY_CONFIGS)
both_kinds = pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
IDS = tiny_batch(3, 11)
TOP_K = 3


def attached(name="olmoe", **config):
    """A model in training mode with uneven biases and a condenser per layer."""
    model = attach(tiny_model(name).train(), RoutingConfig(**config))
    generator = torch.Generator().manual_seed(1)
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.randn(8, generator=generator))
    set_condensers(model, {index: [index + 2] for index in range(len(moe_layers(model)))})
    return model


def counts_of(model):
    return torch.stack([layer.router.counter.counts for layer in moe_layers(model)])


def reset(model):
    for layer in moe_layers(model):
        layer.router.counter.reset()


def counted(model, *batches):
    """The counts of training forwards over `batches` (dicts of inputs)."""
    reset(model)
    for batch in batches:
        model(use_cache=False, **batch)
    return counts_of(model)


def hook_counts(calls, real=None):
    """What the recorded calls add up to: an independent count of the real tokens."""
    counts = torch.zeros(1 + max(layer for layer, *_ in calls), 8, dtype=torch.int64)
    for layer, _, _, indices in calls:
        chosen = indices if real is None else indices[real.reshape(-1)]
        counts[layer] += torch.bincount(chosen.reshape(-1), minlength=8)
    return counts


@pytest.mark.parametrize("name", [name for name in TINY_CONFIGS if "grouped" not in name])
@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_routing_and_counting_read_nothing_back_from_the_device(name, preset, detailed):
    """The meta device has no values: whatever would wait for one (`item`, `tolist`, a mask as index) raises."""
    model = attached(name, preset=preset).to("meta")
    for layer in moe_layers(model):
        state = layer.router.attachment.watch
        state.counting, state.detailed, state.token_mask = True, detailed, torch.ones(33, device="meta")
        hidden = torch.randn(33, 32, device="meta", requires_grad=True)
        logits, weights, _ = layer.router(hidden)
        (logits.sum() + weights.sum()).backward()
        assert layer.router.counter.counts.device.type == "meta"
        layer.router.counter.reset()
        assert layer.router.counter.counts.device.type == "meta"


def test_control_reading_back_from_the_meta_device_raises():
    mask = torch.ones(33, device="meta")
    for read in (lambda: mask.sum().item(), lambda: mask[mask != 0], lambda: mask.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()


class WithPlainBuffer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("selection_bias", torch.zeros(8))


FINE = torch.tensor([0.5 + 1e-3, -0.031 - 1e-4, 1e-30, 0.3, -7.0, 100.001, 0.0, 1 / 3])
"""Values that half precision does not have."""


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to("cpu", torch.float16),
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.double(),
        lambda module: module.bfloat16().float(),
    ],
    ids=["to_bfloat16", "to_float16", "half", "bfloat16", "double", "and_back"],
)
def test_the_bias_is_float32_through_every_cast(cast):
    model = attach(tiny_model(), RoutingConfig())
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(FINE)
    cast(model)
    router = moe_layers(model)[1].router
    assert selection_biases(model).dtype == router.selection_bias.dtype == torch.float32
    assert torch.equal(router.selection_bias, FINE)
    assert router._buffers["selection_bias"] is router.state_dict(keep_vars=True)["selection_bias"]
    assert router.weight.dtype == model.lm_head.weight.dtype
    plain = WithPlainBuffer()
    plain.selection_bias.copy_(FINE)
    buffer = cast(plain).selection_bias
    assert buffer.dtype != torch.float32 or not torch.equal(buffer, FINE), "control: a plain buffer is cast"


def test_the_bias_moves_with_the_module():
    model = attach(tiny_model(), RoutingConfig()).to(device="meta", dtype=torch.bfloat16)
    router = moe_layers(model)[0].router
    assert (router.selection_bias.device.type, router.selection_bias.dtype) == ("meta", torch.float32)
    assert (router.weight.dtype, router.condenser_ids.dtype) == (torch.bfloat16, torch.int64)


@every_family
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float32])
def test_the_bias_is_float32_after_from_pretrained(name, dtype, tmp_path):
    model = attached(name)
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(FINE)
    model.bfloat16().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(selection_biases(loaded), FINE.expand(len(moe_layers(loaded)), -1))
    for layer in moe_layers(loaded):
        assert layer.router.selection_bias.dtype == torch.float32
        assert layer.router.weight.dtype == loaded.lm_head.weight.dtype == (getattr(torch, str(dtype).split(".")[-1]))


@every_family
def test_counts_are_exact(name, recorded_routing):
    model = attached(name)
    with recorded_routing(model) as calls:
        model(input_ids=IDS)
        model(input_ids=IDS + 1, labels=IDS)
    assert torch.equal(counts_of(model), hook_counts(calls))
    assert counts_of(model).sum(dim=1).tolist() == [2 * IDS.numel() * TOP_K] * len(moe_layers(model))
    reset(model)
    assert counts_of(model).sum() == 0


DOCUMENTS = [tiny_batch(1, length, seed=length)[0] for length in (5, 11, 8)]


def padded(side):
    rows = torch.zeros(len(DOCUMENTS), 13, dtype=torch.int64)
    mask = torch.zeros_like(rows)
    for row, document in enumerate(DOCUMENTS):
        place = slice(0, len(document)) if side == "right" else slice(13 - len(document), 13)
        rows[row, place] = document
        mask[row, place] = 1
    return {"input_ids": rows, "attention_mask": mask}


def packed():
    positions = torch.cat([torch.arange(len(document)) for document in DOCUMENTS])
    return {"input_ids": torch.cat(DOCUMENTS)[None], "position_ids": positions[None]}


@every_family
def test_padding_does_not_count_and_packing_does(name, recorded_routing):
    model = attached(name)
    alone = counted(model, *({"input_ids": document[None]} for document in DOCUMENTS))
    assert alone.sum(dim=1).tolist() == [24 * TOP_K] * len(moe_layers(model))
    for side in ("left", "right"):
        batch = padded(side)
        with recorded_routing(model) as calls:
            assert torch.equal(counted(model, batch), alone), side
            assert torch.equal(hook_counts(calls, batch["attention_mask"].bool()), alone)
            assert not torch.equal(hook_counts(calls), alone), "control: padding is routed too"
        assert not torch.equal(counted(model, {"input_ids": batch["input_ids"]}), alone)
    if name == "gpt_oss":  # its attention in transformers does not keep packed documents apart
        assert counted(model, packed()).sum(dim=1).tolist() == alone.sum(dim=1).tolist()
    else:
        assert torch.equal(counted(model, packed()), alone)
        assert not torch.equal(counted(model, {"input_ids": packed()["input_ids"]}), alone), "control: one document"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8, torch.bool])
def test_the_dtype_of_the_mask_does_not_matter(dtype):
    model, batch = attached(), padded("left")
    expected = counted(model, batch)
    assert torch.equal(counted(model, {**batch, "attention_mask": batch["attention_mask"].to(dtype)}), expected)


def test_the_mask_is_found_however_the_decoder_is_called():
    model = attached()
    batch = padded("right")
    expected = counted(model, batch)
    embedded = {"inputs_embeds": model.get_input_embeddings()(batch["input_ids"])}
    assert torch.equal(counted(model, {**embedded, "attention_mask": batch["attention_mask"]}), expected)
    reset(model)
    model.model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(counts_of(model), expected)
    reset(model)
    model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(counts_of(model), expected)


@every_family
def test_only_training_forwards_count(name):
    model = attached(name)
    with torch.no_grad():
        model(input_ids=IDS)
    with torch.inference_mode():
        model(input_ids=IDS)
    model.eval()
    model(input_ids=IDS).logits.sum().backward()
    model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert counts_of(model).sum() == 0
    model.train()
    model(input_ids=IDS)
    assert counts_of(model).sum() == IDS.numel() * TOP_K * len(moe_layers(model))


def test_a_failed_forward_leaves_nothing_switched_on():
    model = attached()
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, 4), 9999))
    attachment = attachment_of(model)
    assert (attachment.watch.counting, attachment.watch.token_mask) == (False, None)
    assert attachment.replay.recall(moe_layers(model)[0].router) is None
    moe_layers(model)[0].router(torch.randn(5, 32))
    assert counts_of(model).sum() == 0


def test_a_mask_that_does_not_say_what_is_padding_is_refused_in_training_only():
    model = attached()
    mask = torch.zeros(3, 1, 11, 11).masked_fill(torch.ones(11, 11).triu(1).bool(), -torch.inf)
    with pytest.raises(RoutingError, match=r"\(3, 1, 11, 11\).*2-D mask.*position_ids"):
        model(input_ids=IDS, attention_mask=mask)
    assert counts_of(model).sum() == 0
    expected = model.eval()(input_ids=IDS).logits
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=mask).logits, expected)


def checkpointed(model, reentrant):
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    return model


def unwrap(decoder, *_):
    """Take the replaying wrappers off again: plain checkpointing, which chooses anew."""
    for layer in decoder.layers:
        if isinstance(layer._gradient_checkpointing_func, ReplayingCheckpoint):
            layer._gradient_checkpointing_func = layer._gradient_checkpointing_func.checkpoint


def shake(model, seed=7):
    """Another bias, far from the last one."""
    generator = torch.Generator().manual_seed(seed)
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(5 * torch.randn(8, generator=generator))


def gradients_of(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


@every_family
@both_kinds
def test_a_recomputed_layer_counts_once(name, reentrant, recorded_routing):
    plain, model = attached(name), checkpointed(attached(name), reentrant)
    batch = padded("left")
    with recorded_routing(model) as calls:
        for each in (plain, model):
            each(**batch, labels=batch["input_ids"]).loss.backward()
    expected = counts_of(plain)
    assert expected.sum(dim=1).tolist() == [24 * TOP_K] * len(moe_layers(plain))
    assert torch.equal(counts_of(model), expected)
    naive = hook_counts(calls, batch["attention_mask"].bool())
    assert torch.equal(naive, 2 * expected), "control: every router ran twice"


@every_family
@both_kinds
def test_the_recomputation_repeats_the_choices_of_the_first_pass(name, reentrant):
    """The bias moves between forward and backward; the gradients stay those of the forward that was run."""
    results = {}
    for kind in ("plain", "replayed", "naive"):
        model = attached(name)
        if kind != "plain":
            checkpointed(model, reentrant)
        if kind == "naive":
            model.model.register_forward_pre_hook(unwrap)
        loss = model(input_ids=IDS, labels=IDS).loss
        shake(model)
        try:
            loss.backward()
            results[kind] = gradients_of(model)
        except CheckpointError:
            results[kind] = None
    assert same(results["replayed"], results["plain"])
    assert results["naive"] is None or not same(results["naive"], results["plain"]), "control"


@every_family
@both_kinds
def test_two_forwards_before_one_backward_keep_their_own_choices(name, reentrant):
    results = []
    for checkpointing in (False, True):
        model = attached(name)
        if checkpointing:
            checkpointed(model, reentrant)
        first = model(input_ids=IDS, labels=IDS).loss
        shake(model, seed=8)
        second = model(input_ids=IDS[:2] + 1, labels=IDS[:2]).loss
        shake(model, seed=9)
        (first + 2 * second).backward()
        results.append((counts_of(model), gradients_of(model)))
    (counts, gradients), (other_counts, other_gradients) = results
    assert counts.sum(dim=1).tolist() == [5 * 11 * TOP_K] * len(counts)
    assert torch.equal(other_counts, counts)
    assert same(other_gradients, gradients)


@both_kinds
def test_checkpointing_off_the_bias_is_the_stock_model(reentrant):
    """With nothing attached but the wrapper, gradients are those of stock checkpointing, also when only counting."""
    results = []
    for config in ("stock", None, RoutingConfig()):
        model = tiny_model().train()
        model = checkpointed(model if config == "stock" else attach(model, config), reentrant)
        model(input_ids=IDS, labels=IDS).loss.backward()
        results.append(gradients_of(model))
    assert same(results[1], results[0])
    assert same(results[2], results[0])


def test_checkpointing_around_a_layer_or_the_whole_model_counts_once():
    """Wrappers that are not transformers' own, such as those of FSDP's activation checkpointing."""
    plain, wrapped, whole = attached(), attached(), attached()
    for index, layer in enumerate(wrapped.model.layers):
        wrapped.model.layers[index] = checkpoint_wrapper(layer, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    plain(input_ids=IDS, labels=IDS).loss.backward()
    wrapped(input_ids=IDS, labels=IDS).loss.backward()
    checkpoint(lambda: whole(input_ids=IDS, labels=IDS).loss, use_reentrant=False).backward()
    assert torch.equal(counts_of(wrapped), counts_of(plain))
    assert torch.equal(counts_of(whole), counts_of(plain))


@every_family
def test_detailed_counters(name, recorded_routing):
    model = attached(name)
    state = attachment_of(model).watch
    batch = padded("right")
    real = batch["attention_mask"].bool().reshape(-1)
    model(**batch)
    assert all(layer.router.counter.tokens == 0 for layer in moe_layers(model)), "only on request"
    state.detailed = True
    reset(model)
    with recorded_routing(model) as calls:
        model(**batch)
    for (_, logits, weights, indices), layer in zip(calls, moe_layers(model), strict=True):
        router, counter = layer.router, layer.router.counter
        zero = torch.zeros(8)
        unbiased = choose_experts(logits, zero, router.condenser_ids, top_k=TOP_K, scoring=layer.scoring)
        gate, changed = torch.zeros(8, dtype=torch.float64), 0
        for token in real.nonzero()[:, 0].tolist():
            gate[indices[token]] += weights[token].double()
            changed += set(indices[token].tolist()) != set(unbiased[token].tolist())
        torch.testing.assert_close(counter.gate_mass, gate)
        assert (int(counter.tokens), int(counter.changed)) == (24, changed)
        assert 0 < changed < 24
    for layer in moe_layers(model):
        layer.router.selection_bias.zero_()
    reset(model)
    model(**batch)
    assert all(layer.router.counter.changed == 0 for layer in moe_layers(model)), "control: no bias, no change"


@every_family
def test_soft_usage_is_the_probability_mass_that_weighs(name, recorded_routing):
    batch = padded("left")
    real = batch["attention_mask"].bool().reshape(-1)
    for preset in ("paper", "reference"):
        model = attached(name, preset=preset, usage="mass")
        with recorded_routing(model) as calls:
            model(**batch)
        for (_, logits, _, _), layer in zip(calls, moe_layers(model), strict=True):
            weighed = logits + layer.router.selection_bias * (preset == "reference")
            mass = weighed[real].double().softmax(-1).sum(0)
            torch.testing.assert_close(layer.router.counter.mass, mass, rtol=1e-5, atol=1e-5)
    assert all(layer.router.counter.mass.sum() == 0 for layer in moe_layers(attached(name)))
