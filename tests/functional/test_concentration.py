import json
import math

import pytest
import torch

from expert_condenser.errors import RoutingError
from expert_condenser.functional.concentration import dead_share, diversity, entropy, gini, overlap, top_share
from tests.samples import folders

MEASURES = [gini, entropy, diversity, lambda u: top_share(u, 1), dead_share, lambda u: overlap(u, u)]
NAMES = ["gini", "entropy", "diversity", "top_share", "dead_share", "overlap"]

# usage: gini, entropy, diversity, share of the busiest, dead share, overlap with itself
EXACT = [
    ([5, 5, 5, 5], (0.0, math.log(4), 1.0, 0.25, 0.0, 1.0)),
    ([0, 0, 7], (2 / 3, 0.0, 1 / 3, 1.0, 2 / 3, 1.0)),
    ([2, 1, 0, 1], (0.375, 1.5 * math.log(2), 2**1.5 / 4, 0.5, 0.25, 1.0)),
    ([0, 0, 0], (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)),  # nothing was counted
]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("usage", "expected"), EXACT)
def test_exact_values(usage, expected, dtype):
    values = [measure(torch.tensor(usage, dtype=dtype)) for measure in MEASURES]
    assert [v.item() for v in values] == pytest.approx(expected, abs=1e-15)
    assert all(v.dtype == torch.float64 and v.shape == () for v in values)


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_batches_are_measured_row_by_row_and_whatever_their_scale(measure):
    usage = torch.randint(0, 9, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    usage[1, 2] = 0
    batched = measure(usage)
    assert batched.shape == (2, 3)
    rows = torch.stack([measure(row) for row in usage.reshape(6, 5)]).reshape(2, 3)
    torch.testing.assert_close(batched, rows, rtol=0, atol=1e-15)
    torch.testing.assert_close(measure(usage * 1000), batched, rtol=0, atol=1e-15)
    torch.testing.assert_close(measure(usage / 1024), batched, rtol=0, atol=1e-15)  # masses that sum to less than 1
    assert batched.unique().numel() > 1


def test_gini_is_half_the_relative_mean_difference():
    usage = torch.rand(4, 7, generator=torch.Generator().manual_seed(1))
    x = usage.double()
    difference = (x[:, :, None] - x[:, None, :]).abs().mean(dim=(1, 2))
    torch.testing.assert_close(gini(usage), difference / (2 * x.mean(dim=1)))


@pytest.mark.parametrize("num_experts", [7, 13, 14, 26])
def test_rounding_keeps_the_bounds(num_experts):
    uniform = torch.full((num_experts,), 0.7, dtype=torch.float64)
    usage = torch.rand(20, num_experts, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert gini(uniform) >= 0
    assert diversity(uniform) <= 1
    assert top_share(usage, num_experts).max() <= 1
    assert overlap(usage, usage).max() <= 1
    assert gini(torch.full((num_experts,), 3)) == 0


def test_top_share_adds_the_busiest():
    usage = torch.tensor([1, 6, 0, 3])
    assert [top_share(usage, n).item() for n in (1, 2, 3, 4)] == pytest.approx([0.6, 0.9, 1.0, 1.0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 0, 0], [0, 4, 4], 0.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),
        ([3, 1], [1, 3], 0.5),
        ([0, 0], [1, 3], 0.0),
    ],
)
def test_overlap(a, b, expected):
    a, b = torch.tensor(a), torch.tensor(b)
    assert overlap(a, b).item() == overlap(b, a).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("measure", [*MEASURES, lambda u: overlap(u.abs().nan_to_num(), u)], ids=[*NAMES, "overlap_b"])
@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_wrong_usage_is_refused(measure, wrong):
    with pytest.raises(RoutingError, match=r"finite and not negative; got (-1|nan|inf) among 1 wrong"):
        measure(torch.tensor([[1.0, 2.0, 3.0], [1.0, wrong, 2.0]]))


@pytest.mark.parametrize("n", [0, -1, 4])
def test_top_share_of_no_such_number_is_refused(n):
    with pytest.raises(RoutingError, match=rf"1 to E experts; got n = {n} with E = 3"):
        top_share(torch.tensor([1, 2, 3]), n)


@pytest.mark.parametrize(
    ("even", "peaked"),
    [
        (folder / f"{even}.json", folder / f"{peaked}.json")
        for folder, (even, peaked) in zip(
            folders("router_usage", "router_usage"),
            [("letters", "riddles"), ("deepseek_v2_lite_law", "deepseek_v2_lite_translation")],
            strict=False,  # the wider set may be absent
        )
    ],
    ids=lambda path: path.stem,
)
def test_routing_is_concentrated_differently_by_task(even, peaked):
    records = [json.loads(path.read_text()) for path in (even, peaked)]
    shape, top_k = (len(records[0]["layers"]), records[0]["num_experts"]), records[0]["top_k"]
    even, peaked = (torch.tensor(record["selection_counts"]) for record in records)
    assert even.shape == peaked.shape == shape
    for measure in (gini, lambda u: top_share(u, top_k)):
        assert measure(peaked).mean() > measure(even).mean() + 0.05
    assert diversity(peaked).mean() < diversity(even).mean()
    assert overlap(even, peaked).max() < 0.95
    torch.testing.assert_close(overlap(even, even), torch.ones(shape[0], dtype=torch.float64))
