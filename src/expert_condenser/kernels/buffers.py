"""Memory that is used again: on the CPU, a fresh large tensor costs a page fault per 4 KB, as much time as reading it.

The C library gives large blocks back to the kernel at once and gets them back page by page, cleared. The experts'
weight gradients and scratch rows are the largest tensors of a MoE step, and are needed again in the next one.
"""

import ctypes
import math
import mmap
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SMALLEST = 1 << 20
"""Bytes below which the C library's allocator reuses memory itself."""

_released: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
_scratch = threading.local()


def recycled(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of the dtype of `like`, in memory of an earlier one that nobody holds any more.

    The memory comes back when the last tensor on it is gone, gradients that the optimizer dropped included. Of each
    size as much is kept as was in use at one time; `release` gives it up.
    """
    size = math.prod(shape) * like.dtype.itemsize
    if like.device.type != "cpu" or sys.platform != "linux" or size < SMALLEST:
        return like.new_empty(shape)
    try:
        pages = _released[size].pop()
    except IndexError:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)
    view = memoryview(pages)
    weakref.finalize(view, _give_back, size, pages).atexit = False
    return torch.frombuffer(view, dtype=like.dtype).view(shape)


def _give_back(size: int, pages: mmap.mmap) -> None:
    _released[size].append(pages)


def scratch(shape: tuple[int, ...], like: Tensor, name: str = "rows") -> Tensor:
    """An uninitialised tensor, valid until this thread's next call with the name; on the CPU always the same memory."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    size = math.prod(shape) * like.dtype.itemsize
    held: Tensor | None = _scratch.__dict__.get(name)
    if held is None or held.numel() < size:
        with torch.inference_mode(False):  # what is made in inference mode cannot be written in training
            held = _scratch.__dict__[name] = torch.empty(size, dtype=torch.uint8, device="cpu")
    return held[:size].view(like.dtype).view(shape)


@contextmanager
def scratch_apart() -> Iterator[Callable[[], int]]:
    """Within it, this thread begins without scratch; after it, it has its own again. Yields a count of its bytes."""
    held = dict(_scratch.__dict__)
    _scratch.__dict__.clear()
    try:
        yield lambda: sum(tensor.numel() for tensor in _scratch.__dict__.values())
    finally:
        _scratch.__dict__.clear()
        _scratch.__dict__.update(held)


def release() -> None:
    """Give up the memory that is kept and not in use, and this thread's scratch."""
    _released.clear()
    _scratch.__dict__.clear()


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, all of it, for its next use; whether it agreed (glibc does).

    For a process that trains on the CPU: 5 % of the testbed's step. Memory that was needed once stays with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in _KEEP.items())


_KEEP = {-4: 0, -1: 2**31 - 1}
"""M_MMAP_MAX: no block is the kernel's own; M_TRIM_THRESHOLD: nothing is given back."""
