"""Processes share the threads that one of them would have."""

import os
import subprocess
import sys

import pytest
import torch

from expert_condenser.kernels.threads import threads_each


@pytest.mark.parametrize(("processes", "each"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_threads_are_shared_and_at_least_one(monkeypatch, processes, each):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert threads_each(processes) == each


def test_what_the_user_sets_is_kept():
    """`--workers 1` took every core, whatever the environment said."""
    words = [sys.executable, "-c", "from expert_condenser.kernels.threads import threads_each; print(threads_each(1))"]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
