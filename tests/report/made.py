"""Folders of runs as `condenser train` and `condenser eval` leave them, with numbers that are known and no training."""

import json
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file

from expert_condenser.training.history import UsageHistory
from expert_condenser.training.record import RunRecord

TASK, OLD = "testbed:gcd", "testbed:aiw"
LAYERS, EXPERTS, TOP_K = 3, 8, 2
CONDENSERS = {1: [2], 2: [0, 7]}
"""Of made runs of two phases."""


def make_run(folder, method="condenser", seed=1, *, arm=None, correct=None, **sizes):
    """A finished run; `correct` has the items of each task that it answers right, as `110`, or is None: not evaluated.

    Of its two phases, the second begins after half of the `snapshots`.
    """
    folder.mkdir(parents=True)
    snapshots, layers, experts = (
        sizes.get(k, v) for k, v in (("snapshots", 6), ("layers", LAYERS), ("experts", EXPERTS))
    )
    phases = {"sparsify": snapshots // 2, "condense": snapshots - snapshots // 2}
    config = {"model": "testbed", "method": method, "seed": seed, "data": f"{TASK}:100", "learning_rate": 1e-4}
    record = RunRecord(method, config, {"torch": "2.13.0"}, "0123abc", {"digest": "d1"}, arm=arm)
    replace(
        record, phases={name: {"steps": n} for name, n in phases.items()}, steps=snapshots, tokens=99, finished=True
    ).write(folder / "run.json")
    generator = torch.Generator().manual_seed(seed + len(folder.name))  # runs differ
    for number, (phase, length) in enumerate(phases.items()):
        (folder / phase).mkdir()
        history = UsageHistory()
        for step in range(1, length + 1):
            counts = usage_at(layers, experts, step + number * length, generator)
            history.add(step, counts, torch.full((layers, experts), -0.001 * (step + number * length)))
        history.write(folder / phase)
        make_routing(folder / phase, layers, experts, generator, sizes.get("tokens", (5, 4)), number)
    log = [
        {"phase": phase, "step": step, "loss": 2.0, "nll": 2.0 - 0.01 * (step + number), "grad_norm": 1.0}
        for number, (phase, length) in enumerate(phases.items())
        for step in range(1, length + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    chosen = [{"layer": layer, "condensers": CONDENSERS.get(layer, [])} for layer in range(layers)]
    (folder / "condensers.json").write_text(json.dumps({"layers": chosen}))
    if correct is not None:
        make_results(folder, correct)
    return folder


def usage_at(layers, experts, step, generator):
    """Counts with a long tail that differs at every step."""
    tail = 1000 / torch.arange(1, experts + 1)
    return (tail * torch.rand(layers, experts, generator=generator) + step).long()


def make_routing(folder, layers, experts, generator, rows, phase):
    tokens = sum(rows)
    tensors = {
        "tokens": torch.arange(40, 40 + tokens, dtype=torch.int32),
        "row": torch.tensor([row for row, length in enumerate(rows) for _ in range(length)], dtype=torch.int32),
        "layers": torch.arange(1, layers + 1, dtype=torch.int32),
    }
    for moment, slots in (("start", TOP_K), ("end", TOP_K + phase)):
        found = torch.rand(tokens, layers, experts, generator=generator).topk(slots).indices.to(torch.int16)
        tensors |= {f"{moment}.experts": found, f"{moment}.weights": torch.ones_like(found).half()}
    save_file(tensors, folder / "routing.safetensors", metadata={"format_version": "1"})


def make_results(folder, correct):
    """`results.json` of these answers."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format_version": 2,
        "model": "m",
        "prompts": "p",
        "weights": None,
        "generation": {"backend": "b", "dtype": "d"},
    }
    content["tasks"] = {name: _entry(digits) for name, digits in correct.items()}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def _entry(digits):
    right = np.array([digit == "1" for digit in digits])
    head = {"n": len(digits), "correct": int(right.sum()), "correct_items": digits, "items": "i", "prompts": "p"}
    return {**head, "questions": "q", "nll": 1.0 - float(right.mean()) / 2}
