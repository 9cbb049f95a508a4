"""Bytes of optimizer state, by hand and as torch's own optimizers make it."""

import pytest
import torch

from expert_condenser.planning.optimizers import state_bytes
from expert_condenser.planning.sizes import Weights

LARGE, FROZEN = Weights((64, 128), 2, True, True), Weights((9999,), 4, False, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw_torch_fused", 2 * 8192 * 2 + 4),
        ("adamw_8bit", 2 * (8192 + 128)),
        ("adamw_torch_4bit", 2 * (4096 + 128)),
        ("lion_32bit", 8192 * 2 + 4),
        ("adafactor", 4 * (64 + 128)),
        ("sgd", 0),
    ],
)
def test_by_hand(name, expected):
    assert state_bytes(name, [LARGE, FROZEN]) == expected


def test_master_weights_make_the_moments_float32():
    assert state_bytes("adamw_torch", [LARGE], 4) == 2 * 8192 * 4 + 4


def test_a_small_parameter_is_not_quantised():
    small = Weights((100,), 4, True, False)
    assert state_bytes("adamw_8bit", [small]) == 800


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_as_torch_makes_it(dtype):
    weight = torch.nn.Parameter(torch.zeros(64, 128, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight])
    optimizer.step()
    made = sum(value.numel() * value.element_size() for value in optimizer.state[weight].values())
    assert made == state_bytes("adamw_torch", [Weights((64, 128), dtype.itemsize, True, False)])
