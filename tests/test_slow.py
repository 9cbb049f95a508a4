"""The list of slow tests finds what it means, and says so when a test was renamed."""

import pytest

from tests.slow import SLOW, slow_tests

UPDATE = "training/test_equivalence_of_methods.py::test_the_update_is_the_same"
NAMES = [f"{UPDATE}[olmoe-condenser-padding]", f"{UPDATE}[gpt_oss-sft-padding]", "moe/test_router.py::test_a_name"]


def test_what_is_fast_of_a_slow_test_is_left_out():
    assert slow_tests(NAMES, whole=True) == {NAMES[1]}


@pytest.mark.parametrize(("gone", "slow"), [(0, 1), (1, 0)])
def test_an_entry_that_matches_nothing_or_leaves_nothing_is_an_error(gone, slow):
    names = [name for at, name in enumerate(NAMES) if at != gone]
    with pytest.raises(ValueError, match=rf"of_methods\.py::test_the_update_is_ there are 1, {slow} of them slow"):
        slow_tests(names, whole=True)
    assert slow_tests(names, whole=False) == {name for name in names if name == NAMES[1]}, "part of a file"
    assert slow_tests(NAMES[2:], whole=True) == set(), "another file"


def test_every_entry_has_its_reason():
    assert all(" s: " in entry.reason for entry in SLOW)
