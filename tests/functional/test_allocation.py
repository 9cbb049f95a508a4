import math

import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.allocation import Allocation, allocate_by_gini, allocate_thirds, allocate_uniform


def test_uniform_and_thirds():
    assert allocate_uniform(3, 2) == [2, 2, 2]
    assert allocate_uniform(1, 2) == [2]
    assert allocate_thirds(3, (4, 2, 0)) == [4, 2, 0]
    assert allocate_thirds(6, (1, 3, 2)) == [1, 1, 3, 3, 2, 2]
    assert allocate_thirds(7, (4, 2, 0)) == [4, 4, 4, 2, 2, 0, 0]
    assert allocate_thirds(8, (0, 2, 4)) == [0, 0, 0, 2, 2, 2, 4, 4]
    assert [allocate_thirds(26, (4, 2, 0)).count(r) for r in (4, 2, 0)] == [9, 9, 8]


@pytest.mark.parametrize(
    ("gini", "total", "power", "maximum", "expected"),
    [
        ([0.1, 0.2, 0.3], 6, 1.0, 5, [1, 2, 3]),
        ([0.1, 0.2, 0.3], 6, 0.0, 5, [2, 2, 2]),
        ([0.1, 0.2, 0.3], 14, 2.0, 14, [1, 4, 9]),
        ([0.5, 0.3, 0.2], 5, 1.0, 4, [3, 1, 1]),  # 2.5, 1.5, 1.0: the tie goes to the lower layer
        ([0.25, 0.35, 0.4], 4, 1.0, 4, [1, 1, 2]),  # 1.0, 1.4, 1.6
        ([0.9, 0.2, 0.1], 6, 1.0, 3, [3, 2, 1]),  # 4.5 is capped, the other 3 are shared 2 : 1
        ([0.9, 0.6, 0.1, 0.1], 10, 1.0, 4, [4, 4, 1, 1]),  # the redistribution lifts the second above the cap
        ([0.5, 0.0, 0.0], 6, 1.0, 2, [2, 2, 2]),  # layers without concentration take what the cap leaves
        ([0.0, 0.0], 3, 1.0, 3, [2, 1]),
        ([0.4, 0.3, 0.2], 9, 1.0, 3, [3, 3, 3]),
        ([0.4, 0.3], 0, 1.0, 3, [0, 0]),
    ],
)
def test_allocation_by_gini(gini, total, power, maximum, expected):
    assert allocate_by_gini(torch.tensor(gini, dtype=torch.float64), total, power=power, maximum=maximum) == expected


def test_allocation_by_gini_is_proportional_unless_a_power_is_given():
    assert allocate_by_gini(torch.tensor([0.25, 0.75]), 4, maximum=4) == [1, 3]
    assert allocate_by_gini(torch.tensor([0.25, 0.75]), 4, power=2.0, maximum=4) == [0, 4]
    assert allocate_by_gini(torch.ones(2), 4, maximum=4) == [2, 2], "1 is an index too"


def test_allocation_by_gini_keeps_total_cap_and_order():
    generator = torch.Generator().manual_seed(3)
    for trial in range(200):
        gini = torch.rand(7, generator=generator)
        maximum = 1 + trial % 5
        total = int(torch.randint(0, 7 * maximum + 1, (), generator=generator))
        counts = allocate_by_gini(gini, total, power=1.5, maximum=maximum)
        assert sum(counts) == total
        assert all(0 <= r <= maximum for r in counts)
        by_gini = [counts[layer] for layer in gini.argsort().tolist()]
        assert by_gini == sorted(by_gini)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", [2, 2, 2, 2, 2]),
        (" 0 ", [0, 0, 0, 0, 0]),
        ("4", [4, 4, 4, 4, 4]),
        ("3/2/1", [3, 3, 2, 2, 1]),
        ("gini:1", [0, 1, 1, 1, 2]),
        ("gini:1:0", [1, 1, 1, 1, 1]),
        ("gini:2:1.5", [0, 1, 2, 3, 4]),
    ],
)
def test_an_allocation_per_layer(text, expected):
    assert Allocation.parse(text).per_layer(5, torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), 4) == expected


@pytest.mark.parametrize(
    "text", ["", "two", "-1", "2.5", "1/2", "1/2/3/4", "gini", "gini:", "gini:2:", "gini:2:-1", "²", "٢"]
)
def test_parse_allocation_refuses_other_forms(text):
    with pytest.raises(RoutingError, match='are "2", "4/2/0", "gini:2" or "gini:2:1.5"; got "' + text):
        Allocation.parse(text).per_layer(5, None, 4)


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        (
            lambda: Allocation.parse("4").per_layer(2, None, 3),
            'at most 3 .*"4": layer 0: R = 4, layer 1: R = 4; lower R',
        ),
        (lambda: Allocation.parse("0/4/2").per_layer(4, None, 3), 'got "0/4/2": layer 2: R = 4; lower R'),
        (
            lambda: Allocation.parse("gini:2").per_layer(3, None, 3),
            '"gini:2" needs a Gini index for each of 3 layers; got none',
        ),
        (lambda: Allocation.parse("gini:2").per_layer(3, torch.ones(4), 3), "each of 3 layers; got 4 values"),
        (
            lambda: Allocation.parse("gini:4").per_layer(2, torch.ones(2), 3),
            "at most 3 condensers hold 6; got a total of 8",
        ),
        (lambda: Allocation.parse("1/2/3").per_layer(2, None, 3), "thirds need at least 3 MoE layers; got 2"),
        (lambda: allocate_uniform(0, 2), "at least one layer and R >= 0; got 0 layers"),
        (lambda: allocate_uniform(2, -1), r"R >= 0; got 2 layers and \[-1\]"),
        (lambda: allocate_thirds(3, (1, -2, 0)), r"R >= 0; got 3 layers and \(1, -2, 0\)"),
        (lambda: allocate_by_gini(torch.ones(2), -1, maximum=3), r"R >= 0; got 2 layers and \[-1\]"),
        (lambda: allocate_by_gini(torch.tensor([0.5, math.nan]), 2, maximum=3), r"in \[0, 1\] .* got \[0.5, nan\]"),
        (lambda: allocate_by_gini(torch.tensor([0.5, 1.5]), 2, maximum=3), r"got \[0.5, 1.5\]"),
        (lambda: allocate_by_gini(torch.ones(2), 2, power=math.inf, maximum=3), "finite and >= 0; .* power inf"),
        (lambda: allocate_by_gini(torch.ones(2), 2, power=-1.0, maximum=3), "power is finite and >= 0; .* power -1.0"),
    ],
)
def test_allocation_refuses(allocate, message):
    with pytest.raises(RoutingError, match=message):
        allocate()


@pytest.mark.parametrize(
    ("text", "written"),
    [(2, "2"), ("4/2/0", "4/2/0"), ("gini:2", "gini:2"), ("gini:2:1", "gini:2"), ("gini:2:1.50", "gini:2:1.5")],
)
def test_an_allocation_is_written_as_it_is_read(text, written):
    allocation = Allocation.parse(text)
    assert str(allocation) == written
    assert Allocation.parse(written) == allocation
    assert Allocation.parse(allocation) is allocation
    assert Allocation.parse("1") != allocation
