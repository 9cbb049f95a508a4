"""A bias per layer, wherever the layers are."""

import pytest
import torch

from expert_condenser.methods.selection_bias import meeting_place


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ({"cpu"}, "cpu"),
        ({"cuda:1"}, "cuda:1"),
        ({"cuda:0", "cuda:1"}, "cpu"),
        ({"mps"}, "cpu"),
        ({"cpu", "meta"}, "cpu"),
    ],
)
def test_biases_meet_on_one_device(devices, expected):
    assert meeting_place(set(map(torch.device, devices))) == torch.device(expected)
