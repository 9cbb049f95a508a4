"""An attached model without bias repeats the stock one bit for bit: every family, in the dtypes that models train in.

Many tokens and nearly equal experts, so that scores and sums of scores tie once they are rounded to half precision.
"""

import copy
import functools

import pytest
import torch

from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.functional import routing
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model
from tests.model_comparison import set_bias
from tests.moe.test_families import CASES, FAIL_UNDER_AUTOCAST, assert_fails_under_autocast, eager

IDS = tiny_batch(8, 48)
ALL = {**{name: (name, {}) for name in TINY_CONFIGS}, **CASES}
SUMS_OF_TWO = ("kimi_linear", "mistral4", "mistral_large4")
"""Families whose router can sum two scores in half precision."""
every_family = pytest.mark.parametrize("name", ALL)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype).removeprefix("torch.")
)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A stock model as transformers loads it: what the family keeps in float32 stays there."""

    @functools.cache
    def made(name, dtype):
        family, options = ALL[name]
        model = tiny_model(family, spread=1.0, **options)
        if family == "deepseek_v4" and dtype == torch.float16:
            return eager(model.to(dtype))  # loaded so, the stock model fails: float16 times float32
        folder = tmp_path_factory.mktemp("stock")
        model.save_pretrained(folder)
        return eager(load_model(folder, dtype=dtype, experts_implementation="eager").eval())

    return lambda name, dtype: copy.deepcopy(made(name, dtype))


def routed(model, recorded_routing, autocast=None):
    """Logits of the model, then logits, weights and indices of every router."""
    dtype = torch.bfloat16 if autocast is None else autocast
    with torch.no_grad(), recorded_routing(model) as calls, torch.autocast("cpu", dtype, enabled=autocast is not None):
        logits = model(input_ids=IDS, use_cache=False).logits
    return [logits, *(tensor for call in calls for tensor in call[1:])]


def same(first, second):
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@every_family
@every_dtype
def test_off_is_the_stock_model_in_every_dtype(name, dtype, model_of, recorded_routing):
    stock, attached = model_of(name, dtype), attach(model_of(name, dtype), RoutingConfig())
    expected = routed(stock, recorded_routing)
    assert len(expected) == 1 + 3 * len(moe_layers(stock))
    assert all(tensor.isfinite().all() for tensor in expected)
    assert same(routed(attached, recorded_routing), expected)
    set_bias(attached, 5, 1.0)
    assert not same(routed(attached, recorded_routing), expected)


@every_family
@every_dtype
def test_off_is_the_stock_model_in_every_dtype_under_autocast(name, dtype, model_of, recorded_routing):
    stock, attached = model_of(name, dtype), attach(model_of(name, dtype), RoutingConfig())
    autocast = torch.float16 if dtype == torch.float16 else torch.bfloat16
    if ALL[name][0] in FAIL_UNDER_AUTOCAST and dtype == torch.float32:
        with torch.autocast("cpu", autocast):
            assert_fails_under_autocast(stock, attached)
        return
    expected = routed(stock, recorded_routing, autocast)
    assert same(routed(attached, recorded_routing, autocast), expected)


@pytest.mark.parametrize("name", SUMS_OF_TWO)
def test_control_a_sum_in_float32_where_the_family_rounds_it_is_another_choice(
    name, model_of, recorded_routing, monkeypatch
):
    stock, attached = model_of(name, torch.bfloat16), attach(model_of(name, torch.bfloat16), RoutingConfig())
    in_float32 = routing.group_mask
    monkeypatch.setattr(routing, "group_mask", lambda ranks, scoring, dtype=None: in_float32(ranks, scoring))
    expected = routed(stock, recorded_routing, torch.bfloat16)
    assert not same(routed(attached, recorded_routing, torch.bfloat16), expected)
