import inspect
import math

import numpy as np
import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.bias import annealing, update_bias, usage_distance

USAGE = torch.tensor([9, 1, 5, 5, 0, 10])  # the mean is 5
SIGNS = [1, -1, 0, 0, -1, 1]
BIAS = torch.tensor([0.3, -0.7, 0.11, 0.0, 2.5, -1e-3])


def after(bias, signs, step):
    """`bias + step * sign`, in float32 arithmetic."""
    return [float(np.float32(b) + np.float32(step) * np.float32(s)) for b, s in zip(bias, signs, strict=True)]


@pytest.mark.parametrize("step", [1e-3, 1e-4, 5e-5, 0.25, 0.0])
def test_busy_experts_rise_and_long_tailed_ones_fall_by_exactly_the_step(step):
    expected, bias = BIAS.tolist(), BIAS
    for _ in range(7):
        expected, bias = after(expected, SIGNS, step), update_bias(bias, USAGE, step)
        assert bias.tolist() == expected
        assert bias.dtype == torch.float32
    assert (bias[2:4] == BIAS[2:4]).all(), "an expert at the mean stays"
    assert torch.equal(bias, BIAS) == (step == 0)


def test_balance_is_the_mirror():
    mirrored = update_bias(-BIAS, USAGE, 1e-3, "balance")
    assert torch.equal(mirrored, -update_bias(BIAS, USAGE, 1e-3))
    assert not torch.equal(mirrored, update_bias(-BIAS, USAGE, 1e-3))


def test_the_argument_is_left_as_it_is():
    before = BIAS.clone()
    update_bias(BIAS, USAGE, 0.1, center="mean", clip=0.5)
    assert torch.equal(BIAS, before)


@pytest.mark.parametrize(
    ("usage", "signs", "dtype"),
    [
        ([2_396_747] * 7, [0] * 7, torch.float32),
        ([2**24 + 1, 2**24 - 1, 2**24], [1, -1, 0], torch.float32),
        ([2**53 + 1, 2**53 - 1, 2**53], [1, -1, 0], torch.float64),
    ],
)
def test_counts_are_compared_exactly(usage, signs, dtype):
    counts = torch.tensor(usage)
    assert update_bias(torch.zeros(len(usage)), counts, 1.0).tolist() == signs
    rounded = counts.to(dtype)
    assert (rounded - rounded.mean()).sign().tolist() != signs


def test_mass_is_usage_too():
    mass = torch.tensor([2.5, 0.5, 1.5, 1.5], dtype=torch.float64)
    assert update_bias(torch.zeros(4), mass, 1.0).tolist() == [1, -1, 0, 0]
    assert update_bias(torch.zeros(4), mass.flip(0), 1.0).tolist() == [0, 0, -1, 1]
    assert update_bias(torch.zeros(4), mass, 1.0).dtype == torch.float32


def test_masses_are_compared_in_float64():
    """Three times 2 ** 24 is below the sum by 2, which float32 cannot tell."""
    mass = torch.tensor([2.0**24, 2.0**24, 2.0**24 + 2])
    assert mass.sum() == 3 * mass[0], "in float32"
    assert update_bias(torch.zeros(3), mass, 1.0).tolist() == [-1, -1, 1]


def test_condensers_keep_their_bias_and_do_not_enter_the_mean():
    usage = torch.tensor([100, 4, 6, 5, 100])
    competes = torch.tensor([False, True, True, True, False])
    bias = torch.tensor([-0.5, 0.1, 0.2, 0.3, -0.7])
    for center, clip in (("none", None), ("mean", 0.25)):
        updated = update_bias(bias, usage, 1e-3, competes=competes, center=center, clip=clip)
        assert updated[[0, 4]].tolist() == bias[[0, 4]].tolist()
    assert update_bias(bias, usage, 1e-3, competes=competes).tolist() == after(bias.tolist(), [0, -1, 1, 0, 0], 1e-3)
    assert update_bias(bias, usage, 1e-3).tolist() == after(bias.tolist(), [1, -1, -1, -1, 1], 1e-3)


@pytest.mark.parametrize("options", [{}, {"center": "mean"}, {"clip": 0.5}, {"rule": "balance", "center": "mean"}])
def test_a_stack_is_updated_layer_by_layer(options):
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(3, 7, generator=generator)
    usage = torch.randint(0, 50, (3, 7), generator=generator) * torch.tensor([[1], [10], [100]])
    competes = torch.rand(3, 7, generator=generator) < 0.7
    stacked = update_bias(bias, usage, 0.01, competes=competes, **options)
    layers = [update_bias(b, u, 0.01, competes=c, **options) for b, u, c in zip(bias, usage, competes, strict=True)]
    assert torch.equal(stacked, torch.stack(layers))
    pooled = update_bias(bias.flatten(), usage.flatten(), 0.01, competes=competes.flatten(), **options)
    assert not torch.equal(stacked, pooled.view(3, 7))


def test_center_subtracts_the_mean_of_those_that_compete():
    bias, usage = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3, 1, 2, 9])
    competes = torch.tensor([True, True, True, False])
    # 1.5, 1.5, 4 have the mean 7/3
    centered = update_bias(bias, usage, 0.5, competes=competes, center="mean")
    assert centered.tolist() == pytest.approx([1.5 - 7 / 3, 1.5 - 7 / 3, 4 - 7 / 3, 8.0])
    assert centered[:3].sum().item() == pytest.approx(0, abs=1e-6)
    assert update_bias(bias, usage, 0.5, competes=competes).tolist() == [1.5, 1.5, 4.0, 8.0]


def test_clip_bounds_the_bias_after_centering():
    bias, usage = torch.tensor([0.45, -0.45, 0.0]), torch.tensor([5, 1, 3])
    assert update_bias(bias, usage, 0.1, clip=0.5).tolist() == [0.5, -0.5, 0.0]
    assert update_bias(bias, usage, 0.1).tolist() == pytest.approx([0.55, -0.55, 0.0])
    far = update_bias(torch.tensor([1.0, 1.0, 4.0]), torch.tensor([1, 1, 1]), 0.1, center="mean", clip=1.5)
    assert far.tolist() == [-1.0, -1.0, 1.5]  # clipped first, it would be -0.17, -0.17, 0.33


def test_small_steps_vanish_in_half_precision_and_not_here():
    half, single, clipped = torch.zeros((), dtype=torch.bfloat16), torch.zeros(2), torch.zeros(2)
    steps_that_moved = 0
    for _ in range(1000):
        moved = half + 1e-3
        steps_that_moved += int(moved != half)
        half = moved
        single = update_bias(single, torch.tensor([2, 1]), 1e-3)
        clipped = update_bias(clipped, torch.tensor([2, 1]), 1e-3, clip=0.5)
    assert (half.item(), steps_that_moved) == (0.5, 383)
    assert single.tolist() == pytest.approx([1.0, -1.0], abs=1e-4)
    assert clipped.tolist() == [0.5, -0.5], "the clip emulates the saturation"


@pytest.mark.parametrize(
    ("bias", "usage", "step", "rule", "message"),
    [
        (BIAS, USAGE, 1e-3, "sharpen", "'sparsify' or 'balance'; got 'sharpen'"),
        (BIAS.bfloat16(), USAGE, 1e-3, "sparsify", "is float32, .* got torch.bfloat16"),
        (BIAS.double(), USAGE, 1e-3, "sparsify", "is float32, .* got torch.float64"),
        (BIAS, USAGE, -1e-3, "sparsify", "is not negative, .* got -0.001"),
        (BIAS, USAGE, math.inf, "sparsify", "is not negative, .* got inf"),
        (BIAS, USAGE / 0 * 0, 1e-3, "sparsify", "usage is finite; got NaN or infinity"),
        (BIAS, torch.full((6,), math.inf), 1e-3, "sparsify", "usage is finite"),
    ],
)
def test_refuses(bias, usage, step, rule, message):
    unchecked = inspect.unwrap(update_bias)  # the type checker of the tests would refuse some of them first
    with pytest.raises(RoutingError, match=message):
        unchecked(bias, usage, step, rule)


@pytest.mark.parametrize("clip", [0.0, -0.5, math.nan])
def test_a_clip_is_a_positive_bound(clip):
    with pytest.raises(RoutingError, match=rf"clip is a positive bound on \|bias\|; got {clip}"):
        update_bias(BIAS, USAGE, 1e-3, clip=clip)


def test_a_proportional_step_keeps_how_far_an_expert_is_off():
    moved = update_bias(BIAS, USAGE, 0.5, direction="proportional", decay=0.25, keep=0.5)
    pairs = zip(BIAS.tolist(), USAGE.tolist(), strict=True)
    expected = [0.5 * (0.75 * b + 0.5 * math.tanh((u - 5) / 5)) for b, u in pairs]
    assert moved.tolist() == pytest.approx(expected, abs=1e-7)
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, update_bias(BIAS, USAGE, 0.5, decay=0.25, keep=0.5)), "control: the sign"
    away = update_bias(BIAS, USAGE, 0.5, "balance", direction="proportional")
    assert (away - BIAS).tolist() == pytest.approx([-0.5 * math.tanh((u - 5) / 5) for u in USAGE.tolist()], abs=1e-7)


def test_the_distance_is_exact_and_of_those_that_compete():
    competes = torch.tensor([True, True, True, False])
    found = usage_distance(torch.tensor([[4, 1, 1, 90], [0, 0, 0, 7]]), competes.expand(2, -1))
    assert found[0].tolist() == pytest.approx([math.tanh(1), -math.tanh(0.5), -math.tanh(0.5), 0.0], abs=1e-15)
    assert found[1].tolist() == [0.0] * 4, "nothing was used by those that compete"
    moved = update_bias(torch.ones(4), torch.tensor([4, 1, 1, 90]), 0.5, decay=0.5, keep=0.5, competes=competes)
    assert moved.tolist() == [0.5, 0.0, 0.0, 1.0]


def test_the_sign_without_decay_is_as_it_was_bit_for_bit():
    plain = update_bias(BIAS, USAGE, 1e-3)
    assert torch.equal(update_bias(BIAS, USAGE, 1e-3, direction="sign", decay=0.0, keep=1.0), plain)
    assert not torch.equal(update_bias(BIAS, USAGE, 1e-3, decay=0.1), plain)
    assert not torch.equal(update_bias(BIAS, USAGE, 1e-3, keep=0.9), plain)


def test_annealing_leads_to_zero_on_a_straight_line():
    bias, found = torch.tensor([1.0, -2.0]), []
    for step in range(1, 5):
        bias = update_bias(bias, torch.tensor([3, 3]), 0.5, keep=annealing(step, 4))
        found.append(bias.tolist())
    assert found == [pytest.approx([1 - t / 4, 2 * t / 4 - 2], abs=1e-7) for t in range(1, 5)]
    assert found[-1] == [0.0, 0.0]
    assert annealing(9, 4) == 0.0


@pytest.mark.parametrize(("decay", "keep"), [(1.0, 1.0), (-0.1, 1.0), (0.0, 1.1), (0.0, -0.1)])
def test_decay_and_keep_are_shares(decay, keep):
    with pytest.raises(RoutingError, match="decay is a share"):
        update_bias(BIAS, USAGE, 0.1, decay=decay, keep=keep)
