"""What each engine keeps, on sizes that are counted by hand."""

import pytest

from expert_condenser.planning.engines import ENGINES, ITEMS, Setting, computes_in_half, kept_by
from expert_condenser.planning.ledger import Moment
from expert_condenser.planning.sizes import Sizes, Unit, Weights
from expert_condenser.planning.trace import Trace

COUNT, FROZEN = 1000, 600
LAYER, ROOT = 700, 200


def sizes(itemsize=4):
    weights = (Weights((COUNT,), itemsize, True, True), Weights((FROZEN,), itemsize, False, False))
    units = (Unit("a", LAYER, 500, 400), Unit("b", LAYER, 400, 400), Unit("", ROOT, 100, 0))
    return Sizes(COUNT + FROZEN, 900, COUNT, 800, weights, units, buffers=40)


def trace(full=4000):
    """The peak is before the backward, where activations are all there; then gradients grow."""
    return Trace((Moment(0, 9000, 500), Moment(full // 2, 5000, 0), Moment(full, 100, 0)), scratch=30)


def setting(devices=4, half=None, optimizer="adamw_torch", **changes):
    return Setting(devices, optimizer, half, pairs=50, hidden=8, **changes)


def kept(name, itemsize=4, full=4000, **changes):
    return kept_by(ENGINES[name], sizes(itemsize), trace(full), setting(**changes))


@pytest.mark.parametrize("name", ENGINES)
def test_the_items_are_the_same_on_every_engine_and_none_is_negative(name):
    for half in (None, 2):
        found = kept(name, half=half)
        assert tuple(found.device) == ITEMS
        assert min(found.device.values()) >= 0
        assert found.total == sum(found.device.values())


def test_one_process():
    found = kept("one_process", devices=1)
    assert found.device == {
        "parameters": 6400,
        "master_weights": 0,
        "gradients": 4000,
        "optimizer": 8004,
        "activations": 5500 - 30 - 500,  # 9500 at the peak, of which 4000 are where gradients will be
        "logits": 500,
        "buffers": 40 + 30,
        "communication": 0,
    }
    assert found.total == 6400 + 8004 + 9500 + 40
    assert found.host == 0


def test_ddp_holds_its_gradients_twice_where_there_are_several_processes():
    assert kept("ddp").device["communication"] == 4000
    assert kept("ddp", devices=1).device["communication"] == 0
    assert kept("ddp").device["parameters"] == 6400


@pytest.mark.parametrize(
    ("name", "parameters", "gradients", "optimizer"),
    [("zero2", 6400, 1000, 2001), ("zero3", 1600, 1000, 2001), ("fsdp2", 1600, 1000, 2001), ("ep", 1600, 1000, 2001)],
)
def test_who_divides_what_in_float32(name, parameters, gradients, optimizer):
    found = kept(name).device
    assert (found["parameters"], found["gradients"], found["optimizer"]) == (parameters, gradients, optimizer)
    halved = kept(name, devices=2).device
    assert halved["gradients"] == 2 * gradients


def test_deepspeed_keeps_master_weights_beside_bfloat16():
    found = kept("zero3", half=2)
    assert found.device["parameters"] == 1600 * 2 // 4
    assert found.device["master_weights"] == COUNT * 4 // 4
    assert found.device["gradients"] == COUNT * 2 // 4
    assert found.precision["step"] == "float32"
    without = kept("zero3", half=2, itemsize=2, full=2000, master_weights=False)
    assert without.device["master_weights"] == 0
    assert without.precision["step"] == "half"


def test_fsdp2_stores_what_trains_in_float32_and_the_rest_as_it_is():
    found = kept("fsdp2", itemsize=2, half=2)
    assert found.device["parameters"] == (COUNT * 4 + FROZEN * 2) // 4
    assert found.precision["step"] == "float32"
    pure = kept("fsdp2", itemsize=2, half=2, master_weights=False)
    assert pure.device["parameters"] == (COUNT + FROZEN) * 2 // 4
    assert pure.precision["step"] == "half"


def test_a_process_of_its_own_steps_what_it_has_unless_asked():
    assert kept("one_process", itemsize=2).precision["step"] == "half"
    asked = kept("one_process", itemsize=2, master_weights=True)
    assert (asked.precision["step"], asked.device["master_weights"]) == ("float32", COUNT * 4)


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_offloading_moves_to_the_host_what_lasts(name):
    there, here = kept(f"{name}_offload"), kept(name)
    lasting = ("parameters", "master_weights", "gradients", "optimizer")
    assert there.host == sum(here.device[item] for item in lasting)
    assert all(there.device[item] == 0 for item in lasting)
    assert there.device["communication"] == here.device["communication"] > 0


def test_experts_are_not_gathered_under_expert_parallelism():
    rows = 2 * 50 * 8
    assert kept("ep").device["communication"] == (300 + 300 + ROOT + rows) * 4
    assert kept("fsdp2").device["communication"] == (LAYER + LAYER + ROOT + 2 * 500) * 4


def test_who_computes_in_half():
    assert {name for name, e in ENGINES.items() if computes_in_half(e, setting(half=2))} == {
        *("fsdp2", "zero2", "zero3", "zero3_offload", "fsdp2_offload")
    }
    assert not any(computes_in_half(e, setting()) for e in ENGINES.values())


def test_the_peak_moves_when_gradients_are_divided():
    late = Trace((Moment(0, 3000, 0), Moment(4000, 100, 0)), scratch=0)
    assert late.peak() == Moment(4000, 100, 0)
    assert late.peak(0.25) == Moment(0, 3000, 0)
