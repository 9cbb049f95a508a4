"""Run by `test_engines` in every process of an engine: short trainings, and what they left, from the first process."""

import os
import sys
from pathlib import Path

import accelerate.state
import torch
from accelerate.utils import DistributedType

from expert_condenser.testing import tiny_model
from tests.finetune import BATCH, finetune

ENGINE, FOLDER = sys.argv[1], Path(sys.argv[2])
STEPS = 20
ZERO = {
    "zero2": {"stage": 2},
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


class WithCpu:
    """accelerate's kinds of engines, with gloo on CPUs in the place of one that may become FSDP.

    accelerate splits weights on accelerators alone, and runs DDP in silence on CPUs; FSDP2 itself works on both.
    """

    def __getattr__(self, name):
        return DistributedType.MULTI_CPU if name == "MULTI_MUSA" else getattr(DistributedType, name)


def options_of(engine):
    """Options of the trainer."""
    if engine in ZERO:
        config = {
            "zero_optimization": ZERO[engine],
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": "auto",
        }
        return {"deepspeed": config}
    return {}


def main(cases):
    if ENGINE.startswith("fsdp2"):
        accelerate.state.DistributedType = WithCpu()
    world = int(os.environ["WORLD_SIZE"])
    for family, method in cases:
        outcome = finetune(
            FOLDER / f"{family}-{method}",
            method,
            model=tiny_model(family),
            per_device_train_batch_size=BATCH // world,
            ddp_backend="gloo",
            max_steps=STEPS,
            **options_of(ENGINE),
        )
        if os.environ["RANK"] == "0":
            found = {"weights": outcome.weights, "bias": outcome.bias, "usage": torch.stack(outcome.usage)}
            found |= {"loss": torch.tensor([entry["loss"] for entry in outcome.log if "loss" in entry])}
            found |= {"kind": outcome.kind}
            torch.save(found, FOLDER / f"{family}-{method}.pt")


if __name__ == "__main__":
    main([case.split(":") for case in sys.argv[3:]])
