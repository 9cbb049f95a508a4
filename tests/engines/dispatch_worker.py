"""Run in two processes by `test_expert_parallel`: what is sent, with condensers replicated and without."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.moe.attachment import attachment_of
from expert_condenser.moe.expert_parallel import NAME, dispatch_of, replicate_condensers
from expert_condenser.moe.split import whole
from expert_condenser.testing import tiny_batch
from expert_condenser.training.usage import collect
from tests.engines.test_expert_parallel import CONDENSERS


def loaded(path, **sizes):
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, distributed_config=DistributedConfig(**{"ep_size": 2, **sizes})
    )


def train_step(model, ids):
    """Loss, and the gradient of the experts that every process holds, summed to that of the mean over processes."""
    model.train()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    gradients = [whole(layer.experts.down_proj.grad) for layer in moe_layers(model)]
    return loss.item(), torch.stack(gradients)


def condensed(model, *, replicated):
    attach(model, RoutingConfig(num_condensers=1))
    set_condensers(model, CONDENSERS)
    if replicated:
        replicate_condensers(model)
    return model


def case(path, ids, *, replicated):
    model = condensed(loaded(path, fsdp_size=2, ep_implementation=NAME), replicated=replicated)
    loss, gradients = train_step(model, ids)
    traffic = [dispatch_of(layer.experts).traffic for layer in moe_layers(model)]
    counts = torch.stack([layer.router.counter.counts for layer in moe_layers(model)])
    found = {"counts": counts.tolist(), "loss": loss, "traffic": [vars(t) for t in traffic]}
    return found, gradients


def shared(path, ids):
    """A tensor-parallel pair sees the same tokens."""
    model = attach(loaded(path, tp_size=2), RoutingConfig())
    model.train()
    attachment_of(model).reset(detailed=True)
    model(input_ids=ids)
    return collect(attachment_of(model)).counts.tolist()


def main(path, folder):
    rank = int(os.environ["RANK"])
    ids = tiny_batch(3 + rank, 9, seed=rank)
    plain, of_plain = case(path, ids, replicated=False)
    ours, of_ours = case(path, ids, replicated=True)
    found = {"plain": plain, "ours": ours, "shared": shared(path, tiny_batch(3, 9))}
    found["difference"] = (of_plain - of_ours).abs().max().item()
    found["largest"] = of_plain.abs().max().item()
    (Path(folder) / f"dispatch-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
