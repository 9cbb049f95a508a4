"""Run by `test_equivalence.test_two_processes` under torchrun: fine-tunings over two gloo processes."""

import os
import sys
from pathlib import Path

import torch

from expert_condenser.training import usage
from tests.finetune import BATCH, finetune
from tests.training.test_equivalence import CONDENSERS, OTHER_METHODS

rank = int(os.environ["RANK"])
local_usage = []
rows_of = usage._row


def recording_row(counter, device):
    local_usage.append(counter.counts.clone())
    return rows_of(counter, device)


usage._row = recording_row
outcome = finetune(
    Path(sys.argv[1]) / "run", condensers=CONDENSERS, per_device_train_batch_size=BATCH // 2, ddp_backend="gloo"
)
num_layers = len(outcome.bias)
found = {
    "weights": outcome.weights,
    "bias": outcome.bias,
    "usage": torch.stack(outcome.usage),
    "local_usage": torch.stack(local_usage).unflatten(0, (-1, num_layers)),
}
for method in OTHER_METHODS:
    folder = Path(sys.argv[1]) / method
    other = finetune(folder, method, per_device_train_batch_size=BATCH // 2, ddp_backend="gloo")
    found[method] = {"weights": other.weights, "usage": torch.stack(other.usage)}
torch.save(found, Path(sys.argv[1]) / f"rank{rank}.pt")
