"""Counters and the token mask follow each layer's device; the `meta` device stands for a second one."""

from types import SimpleNamespace

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.errors import RoutingError
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.counting import Counter, Watch, count_choice, sum_dtype, token_mask
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training import usage as step_usage
from expert_condenser.training.usage import collect, meeting_device

CPU, META, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "meta", "cuda", "mps"))
SUMS = ("counts", "mass", "gate_mass", "changed", "tokens")


def test_sums_are_float64_where_there_is_float64():
    assert [sum_dtype(device) for device in (CPU, CUDA, MPS)] == [torch.float64, torch.float64, torch.float32]
    assert [meeting_device(device) for device in (CPU, CUDA, MPS)] == [CPU, CUDA, CPU]


def test_a_counter_has_the_dtype_of_its_device(monkeypatch):
    """As on MPS: what the counter allocates there, it allocates as `sum_dtype` says."""
    monkeypatch.setattr(
        "expert_condenser.moe.counting.sum_dtype", lambda device: torch.float32 if device == META else torch.float64
    )
    counter = Counter(8)
    assert (counter.mass.dtype, counter.gate_mass.dtype) == (torch.float64, torch.float64)
    counter.move(META)
    assert {getattr(counter, name).device for name in SUMS} == {META}
    assert (counter.mass.dtype, counter.gate_mass.dtype) == (torch.float32, torch.float32)
    assert {counter.counts.dtype, counter.changed.dtype, counter.tokens.dtype} == {torch.int64}
    counter.reset()
    assert {getattr(counter, name).device for name in SUMS} == {META}
    assert counter.mass.dtype == torch.float32


@pytest.mark.parametrize("usage", ["count", "mass"])
def test_a_layer_on_another_device_gets_the_mask_there(usage):
    """Counts of a layer on `meta`, of a batch whose mask is on the CPU; then of one on the CPU again."""
    watch = Watch()
    watch.detailed = True
    watch.token_mask = torch.tensor([1, 1, 0])
    scoring = moe_layers(tiny_model())[0].scoring
    for device in (META, CPU):
        router = SimpleNamespace(
            policy=RoutingConfig(usage=usage), num_experts=4, experts_per_token=2, scoring=scoring, counter=Counter(4)
        )
        router.selection_bias = torch.zeros(4, device=device)
        router.condenser_ids = torch.zeros(0, dtype=torch.int64, device=device)
        logits, weights = torch.zeros(3, 4, device=device), torch.ones(3, 2, device=device)
        indices = torch.zeros(3, 2, dtype=torch.int64, device=device)
        if device == CPU:  # from meta there is no way back
            watch.token_mask = torch.tensor([1, 1, 0])
        count_choice(router, watch, logits, weights, indices, None)
        assert {getattr(router.counter, name).device for name in SUMS} == {device}
    assert router.counter.counts.tolist() == [4, 0, 0, 0]


def test_collecting_casts_after_it_moved(monkeypatch):
    """As on MPS, whose tensors have no float64: rows meet on the CPU, and a cast before that would fail."""
    model = attach(tiny_model(), None).train()
    model(input_ids=tiny_batch())
    for router in attachment_of(model).routers:
        router.counter.mass, router.counter.gate_mass = router.counter.mass.float(), router.counter.gate_mass.float()
    moved = []
    monkeypatch.setattr(step_usage, "meeting_device", lambda device: moved.append(device) or CPU)
    counts = collect(attachment_of(model)).counts
    assert moved == [CPU]
    assert counts.sum(dim=1).tolist() == [tiny_batch().numel() * 3] * 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padding_is_read_from_masks_that_a_model_around_the_decoder_made(attention, left):
    """Gemma 4 makes one 4-D mask per type of layer, of booleans or of floats that are added to the scores."""
    model = attach(tiny_model("gemma4", attn_implementation=attention), None).train()
    mask = torch.ones(4, 12, dtype=torch.int64)
    mask[0, :5] = mask[2, :1] = 0
    mask = mask if left else mask.flip(-1)
    model(input_ids=tiny_batch(), attention_mask=mask)
    assert collect(attachment_of(model)).counts.sum(dim=1).tolist() == [int(mask.sum()) * 3] * 3
    assert int(mask.sum()) == 42
    attachment_of(model).reset(detailed=False)
    model(input_ids=tiny_batch())
    assert collect(attachment_of(model)).counts.sum(dim=1).tolist() == [48 * 3] * 3, "control: without padding"


def test_masks_of_another_kind_are_refused():
    forward = torch.nn.Module()
    forward.forward = lambda input_ids=None, attention_mask=None: None
    for mask in ({"sliding_attention": None}, {"full_attention": object()}, torch.ones(2, 1, 3, 3)):
        with pytest.raises(RoutingError, match="Pass a 2-D mask"):
            token_mask(forward, (torch.ones(2, 3),), {"attention_mask": mask})
    assert token_mask(forward, (torch.ones(2, 3),), {"attention_mask": {"full_attention": None}}) is None
