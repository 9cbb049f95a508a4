"""The method in a plain `transformers.Trainer`: prepare the model, pass the callback, train."""

import tempfile

from datasets import Dataset
from transformers import Trainer, TrainingArguments

from expert_condenser import METHODS, MethodCallback, MethodConfig
from expert_condenser.moe.own_types import selection_biases
from expert_condenser.testing import tiny_batch, tiny_model

model = tiny_model("olmoe")
method = METHODS["bias_only"](MethodConfig(bias_step=1e-3))
method.prepare(model)

ids = tiny_batch(rows=32, length=16).tolist()
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(folder, max_steps=4, logging_steps=1, report_to="none", use_cpu=True),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        callbacks=[MethodCallback(method)],
    )
    trainer.train()

for entry in trainer.state.log_history[:-1]:
    print(f"step {entry['step']}: nll {entry['nll']:.3f}, diversity {entry['expert_diversity']:.3f}")
print("bias after four steps, in steps of gamma:", (selection_biases(model)[0] / 1e-3).round().int().tolist())
