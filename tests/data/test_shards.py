"""The order of shards, by their numbers, and sets that are not whole."""

from pathlib import Path

import pytest

from expert_condenser.data.shards import in_order, whole
from expert_condenser.errors import DataError


def shards(*numbers, of, prefix="train", end=".json"):
    return [Path("data", f"{prefix}-{number}-of-{of}{end}") for number in numbers]


@pytest.mark.parametrize("first", [0, 1])
def test_a_whole_set_is_put_in_order(first):
    numbers = range(first, 11 + first)
    files = shards(*numbers, of=11)
    assert whole(sorted(files)) == in_order(sorted(files)) == files != sorted(files)


def test_files_without_numbers_stay_as_given():
    files = [Path("b.json"), Path("a.json"), Path("test-00000.json")]
    assert whole(files) == in_order(files) == files


def test_shards_of_several_sets_and_other_files_keep_their_places():
    files = [*shards(1, 0, of=2), Path("z.json"), *shards(2, 1, 0, of=3, prefix="more"), *shards(0, of=1, end=".jsonl")]
    assert in_order(files) == [
        *(*shards(0, 1, of=2), Path("z.json"), *shards(0, 1, 2, of=3, prefix="more"), *shards(0, of=1, end=".jsonl"))
    ]
    first, second = shards(1, of=2), shards(0, of=2)
    assert in_order([*first, Path("z.json"), *second]) == [*second, Path("z.json"), *first]


def test_a_fingerprint_behind_the_number_is_no_other_set():
    files = [*shards(1, of=2, end="-5f3a.parquet"), *shards(0, of=2, end="-91bc.parquet")]
    assert in_order(files) == files[::-1]


@pytest.mark.parametrize(
    "files",
    [
        shards(0, of=2),
        shards(1, of=2),
        shards(0, 2, of=2),
        shards(0, 1, 2, of=2),
        shards(0, 0, of=2),
        shards(2, 3, of=2),
        [*shards(0, 1, of=2), *shards(0, of=3)],
    ],
)
def test_a_set_that_is_not_whole(files):
    for check in (whole, in_order):
        with pytest.raises(DataError, match=rf"data must hold each of 2 shards once, .* but it has {files[0].name}"):
            check(files)
