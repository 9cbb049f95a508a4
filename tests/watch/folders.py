"""Folders of runs as a training writes them, made by hand."""

import json
from dataclasses import replace

import torch

from expert_condenser.ownership import LOCK, Owner
from expert_condenser.training.history import UsageHistory
from expert_condenser.training.record import METRICS, RUN, RunRecord

COUNTS = torch.tensor([[6, 3, 0, 3], [1, 1, 5, 5]])
BIAS = torch.tensor([[-0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.5, -0.25]])
CONFIG = {"model": "testbed", "max_steps": 40, "num_train_epochs": 2}


def make_run(folder, steps=(10, 20), *, finished=False, phases=("train",), bias=BIAS, **config):
    """A run that has logged these steps in each of its phases; without a process."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(RunRecord("condenser", CONFIG | config, {}, None), finished=finished).write(folder / RUN)
    lines = ""
    for phase in phases:
        history = UsageHistory()
        for step in steps:
            lines += (
                json.dumps({"phase": phase, "step": step, "loss": 1.0, "nll": 4 / step, "epoch": step / 100}) + "\n"
            )
            history.add(step, COUNTS * step, bias)
        (folder / phase).mkdir()
        history.write(folder / phase)
    (folder / METRICS).write_text(lines)
    return folder


def own(folder, **changes):
    """A process works in the folder: this one."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = replace(Owner.here("train"), **changes)
    (folder / LOCK).write_text(json.dumps(vars(owner)))
    return folder
