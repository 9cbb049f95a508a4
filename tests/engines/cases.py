"""Trainings that every engine makes, and what each left: losses, usage, weights and bias of whole runs on disk."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from expert_condenser.testbed.tokenizer import VOCABULARY_SIZE, train_tokenizer
from expert_condenser.testing import tiny_model
from tests.runs import log_of, question

FAMILIES = ("olmoe", "deepseek_v2")
LORA = {"lora": "attention+experts", "lora_r": 4, "lora_alpha": 8}
CONDENSER = {"method": "condenser", "num_condensers": "1", "bias_step": 1e-2, "bias_step_condense": 1e-3}
METHODS = {
    "sft": {"method": "sft"},
    "condenser": CONDENSER,
    "esft_gate": {"method": "esft_gate", "top_p": 0.4, "score_rows": 8},
    "densemixer": {"method": "densemixer"},
    "sft, lora": {"method": "sft", **LORA},
    "condenser, lora": {**CONDENSER, **LORA},
}
"""Name -> options of a recipe."""
MORE = {
    "condenser, checkpointing": {**CONDENSER, "gradient_checkpointing": True},
    "condenser, condenser_rows_only": {**CONDENSER, "condenser_rows_only": True},
    "condenser, budget: recycle": {**CONDENSER, "budget": "recycle"},
    "sft, router_learning_rate_factor": {"method": "sft", "router_learning_rate_factor": 3.0},
    "sft, lora on experts": {"method": "sft", "lora": "experts", "lora_r": 4, "lora_alpha": 8},
    "bias_only": {"method": "bias_only", "bias_step": 1e-2},
    "frozen_router": {"method": "frozen_router"},
    "router_only": {"method": "router_only"},
    "smt": {"method": "smt", "smt_block": 4, "smt_share": 0.3, "smt_rows": 8},
}
"""On the first family alone."""
STEPS, BATCH = 20, 8
TOLERANCE = 2e-6
"""Of a loss and of a weight in float32, after all steps; sums over processes are made in another order."""


def make_base(folder, family):
    """A tiny model, its tokenizer, and 40 rows of uneven length: five steps of eight to the epoch."""
    rows = [question(2 + index % 7, 3 + index) for index in range(40)]
    for index, row in enumerate(rows):
        row["answer"] = "They are his. " * (index % 4) + row["answer"]
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer([row["question"] + row["answer"] for row in rows]).save_pretrained(folder / "model")
    tiny_model(family, vocab_size=VOCABULARY_SIZE).save_pretrained(folder / "model")
    return folder


def options(base, method, processes, **changes):
    """A recipe of 20 steps of eight rows, in two micro-batches, by plain SGD: rounding stays rounding."""
    return {
        "model": str(base / "model"),
        "data": str(base / "rows.jsonl"),
        "per_device_train_batch_size": BATCH // 2 // processes,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 4.0,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_length": 128,
        "logging_steps": 1.0,
        "save_steps": 5.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
        **(METHODS | MORE)[method],
        **changes,
    }


@dataclass
class Left:
    """What a run left."""

    folder: Path

    @property
    def losses(self):
        return torch.tensor([entry["loss"] for entry in log_of(self.folder)], dtype=torch.float64)

    @property
    def usage(self):
        """Counts `(steps, L, E)` over all phases."""
        files = sorted(self.folder.glob("*/final/usage.safetensors"), key=lambda path: path.parts[-3] != "sparsify")
        return torch.cat([load_file(path)["counts"] for path in files])

    @property
    def result(self):
        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def state(self):
        """Bias and condensers of every router, in the result or, of an adapter's run, in the adapter."""
        return {k: v for k, v in self.result.items() if k.endswith(("selection_bias", "condenser_ids"))}


def difference(found, expected):
    """The largest of any weight."""
    assert found.keys() == expected.keys()
    return max(
        (found[name].double() - value.double()).abs().max().item() for name, value in expected.items() if value.numel()
    )


def launch(engine, cases, folder, processes=2):
    """Run the cases in the processes of an engine; raises with what they printed where one failed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.failed-*"):
        path.unlink()
    (folder / "cases.json").write_text(json.dumps(cases))
    program = ["-m", "tests.engines.worker", engine, str(folder / "cases.json")]
    if engine != "one_process":
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
        check=False,
    )
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        traces = [path.read_text() for path in folder.glob("*.failed-*")]
        raise AssertionError("\n".join(traces) or done.stderr[-3000:])
