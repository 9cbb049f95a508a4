"""Memory comes back when nobody holds it, never before."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from expert_condenser.kernels.buffers import SMALLEST, recycled, release, scratch

LIKE = torch.zeros(1)
SHAPE = (SMALLEST // 4 // 8, 8)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is the allocator's")


@pytest.fixture(autouse=True)
def nothing_kept():
    release()
    yield
    release()


@on_linux
def test_memory_is_used_again_once_its_last_tensor_is_gone():
    first = recycled(SHAPE, LIKE)
    address, view = first.data_ptr(), first[3:5]
    del first
    held = recycled(SHAPE, LIKE)
    assert held.data_ptr() != address
    view.fill_(7.0)
    del view
    assert recycled(SHAPE, LIKE).data_ptr() == address


@on_linux
def test_a_gradient_is_memory_of_its_parameter_until_it_is_dropped():
    class Ones(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.sum()

        @staticmethod
        def backward(ctx, gradient):
            return recycled(SHAPE, LIKE).fill_(1.0)

    weight = nn.Parameter(torch.zeros(SHAPE))
    Ones.apply(weight).backward()
    address = weight.grad.data_ptr()
    Ones.apply(weight).backward()
    assert weight.grad.data_ptr() == address
    assert weight.grad.unique().tolist() == [2.0]
    weight.grad = None
    assert address in {tensor.data_ptr() for tensor in (recycled(SHAPE, LIKE), recycled(SHAPE, LIKE))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_those_asked_for(dtype):
    for size in (1, SMALLEST):
        tensor = recycled((size, 3), torch.zeros(1, dtype=dtype))
        assert (tensor.shape, tensor.dtype) == ((size, 3), dtype)


def test_scratch_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        scratch((5, 7), LIKE)
    assert torch.mm(torch.ones(5, 1), torch.ones(1, 7), out=scratch((5, 7), LIKE)).sum() == 35


def test_scratch_is_the_same_memory_and_grows():
    small = scratch((5, 7), LIKE)
    assert scratch((7, 4), LIKE.double()).shape == (7, 4)
    assert scratch((5, 7), LIKE).data_ptr() == scratch((35,), LIKE).data_ptr()
    assert scratch((50, 70), LIKE).shape == (50, 70)
    assert small.shape == (5, 7)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_with_fewer_page_faults():
    """In a process of its own: the setting holds for good."""
    code = """if True:
        import resource, torch
        from expert_condenser.kernels.buffers import keep_freed_memory
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(5):
                torch.ones(12_000_000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        first = faults()
        assert keep_freed_memory()
        for _ in range(5):  # an aligned block does not fit into its own gap: a few are laid before they are found again
            faults()
        print(first, faults())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10
