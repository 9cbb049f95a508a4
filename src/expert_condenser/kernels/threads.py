"""How many threads each of several processes on this machine computes with."""

import torch


def threads_each(processes: int) -> int:
    """What torch would use in one process, shared; 1 or more.

    That is the cores of this process, or fewer by `OMP_NUM_THREADS`. Threads that outnumber their cores wait for each
    other actively: a run with two, beside another program on two cores, took ten times its own time.
    """
    return max(1, torch.get_num_threads() // processes)
