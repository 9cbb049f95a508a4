"""A cluster of this machine: `sbatch`, `srun`, `sacct`, `squeue` and `scancel` as far as submitit calls them.

Run as `python slurm.py COMMAND ...`; `install` writes the four commands into a folder, for PATH.
"""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from expert_condenser.ownership import start_of

COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scancel")


def install(folder):
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {folder} {name} "$@"\n')
        (folder / name).chmod(0o755)


def sbatch(folder, words):
    number = os.getpid()  # for submitit, which remembers the jobs of a process, another number in every test
    known = {"SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    job = subprocess.Popen(["bash", words[-1]], env={**os.environ, **known}, start_new_session=True, **quiet)
    (folder / f"{number}.pid").write_text(str(job.pid))
    print(f"Submitted batch job {number}")


def srun(folder, words):
    """The command begins behind the options."""
    os.execv(sys.executable, words[words.index(sys.executable) :])


def sacct(folder, words):
    print("JobID|State|NodeList")
    if "ACCOUNTING_IS_LATE" in os.environ:
        return
    for word, number in pairwise(words):
        if word == "-j" and (folder / f"{number}.pid").exists():
            alive = start_of(pid_of(folder, number)) is not None
            print(f"{number}|{'RUNNING' if alive else 'FAILED'}|here")


def squeue(folder, words):
    number = words[words.index("-j") + 1]
    if not (folder / f"{number}.pid").exists():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    if start_of(pid_of(folder, number)) is not None:
        print("RUNNING")


def scancel(folder, words):
    os.killpg(pid_of(folder, words[-1]), signal.SIGTERM)


def pid_of(folder, number):
    return int((folder / f"{number}.pid").read_text())


if __name__ == "__main__":
    globals()[sys.argv[2]](Path(sys.argv[1]), sys.argv[3:])
