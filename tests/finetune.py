"""One short fine-tuning of a tiny model, and what it left: the common ground of the equivalence tests."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from expert_condenser import METHODS, MethodCallback, MethodConfig, moe_layers, set_condensers
from expert_condenser.methods.esft import Esft
from expert_condenser.moe.probe import Batch
from expert_condenser.moe.split import is_split
from expert_condenser.testbed.tokenizer import train_tokenizer
from expert_condenser.testing import tiny_batch, tiny_model

STEPS, BATCH = 3, 8
PLAIN = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "use_cpu": True,
}
"""Options of every short training: float32 on the CPU, nothing written, nothing reported."""


@cache
def tokenizer():
    return train_tokenizer(["a few words to learn merges from, 0123456789"] * 4)


def rows(lengths=None):
    """Documents of unequal length, so that a batch of them is padded."""
    lengths = lengths or [5 + (7 * index) % 9 for index in range(STEPS * BATCH)]
    ids = [tiny_batch(1, length, seed=index)[0].tolist() for index, length in enumerate(lengths)]
    return Dataset.from_dict({"input_ids": ids, "completion_mask": [[0, 0] + [1] * (len(row) - 2) for row in ids]})


@dataclass
class Outcome:
    weights: dict[str, torch.Tensor]
    usage: list[torch.Tensor]
    """Counts `(L, E)` of every optimizer step."""
    bias: torch.Tensor | None
    log: list[dict[str, Any]] = field(default_factory=list)
    kind: str = "NO"
    """How accelerate shares the work."""

    def largest_difference(self, other):
        return max((self.weights[name] - other.weights[name]).abs().max().item() for name in self.weights)


class UsageRecorder(TrainerCallback):
    """Sits behind the `MethodCallback` and keeps what it counted."""

    def __init__(self, callback):
        self.callback, self.usage = callback, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.usage.append(self.callback.last.counts)


def make_method(name, model, **options):
    """A prepared method; ESFT trains two experts of every layer."""
    made = METHODS[name](MethodConfig(**options, **({"smt_block": 8, "smt_share": 0.5} if name == "smt" else {})))
    if made.probe_rows:
        ids = tiny_batch(4, 12)
        made.probe(model, [Batch(ids, torch.ones_like(ids), ids)])
    if isinstance(made, Esft):
        made.choose(layers := moe_layers(model), torch.eye(layers[0].num_experts)[:2].mean(0).repeat(len(layers), 1))
    made.prepare(model)
    return made


def finetune(folder, method="bias_only", *, model=None, condensers=None, bias_step=1e-2, data=None, **options):
    """Train `STEPS` optimizer steps with plain SGD, so that rounding stays rounding; returns the `Outcome`.

    `aux_loss_coef` among the options goes to the method.
    """
    model = model or tiny_model()
    made = make_method(method, model, bias_step=bias_step, aux_loss_coef=options.pop("aux_loss_coef", None), top_p=1.0)
    if condensers is not None:
        set_condensers(model, condensers)
    callback = MethodCallback(made)
    recorder = UsageRecorder(callback)
    defaults = {
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": 0.1,
        "logging_steps": 1,
        "router_aux_loss_coef": made.router_aux_loss_coef,
        "seed": 3,
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(folder), **{**PLAIN, **defaults, **options}),
        train_dataset=data if data is not None else rows(),
        processing_class=tokenizer(),
        callbacks=[callback, recorder],
    )
    trainer.train()
    layers = moe_layers(model)
    biases = None if layers[0].router.policy is None else torch.stack([x.router.selection_bias for x in layers])
    return Outcome(
        whole_weights(trainer),
        recorder.usage,
        biases,
        trainer.state.log_history,
        trainer.accelerator.distributed_type.value,
    )


def whole_weights(trainer):
    """Every parameter, put together again where an engine has split them."""
    if is_split(trainer.model):
        names = {name for name, _ in trainer.model.named_parameters()}
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        return {name: value.detach().clone() for name, value in state.items() if name in names}
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
