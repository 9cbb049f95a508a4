"""Short runs of the whole training, from recipe to model, and what they left: the common ground of its tests."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from expert_condenser.testbed.tokenizer import VOCABULARY_SIZE, train_tokenizer
from expert_condenser.testing import tiny_model
from expert_condenser.training import phase as phase_module
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.run import train

GAMMA1, GAMMA2, STEPS = 1e-2, 1e-3, 4
PHASES = ("sparsify", "condense")


def question(pens, more):
    return {
        "question": f"Tom has {pens} pens and buys {more} more. How many pens has he?",
        "answer": f"He has {pens}+{more} = <<{pens}+{more}={pens + more}>>{pens + more} pens.\n#### {pens + more}",
    }


def make_base(folder, name="olmoe"):
    """A folder with a tiny model, its tokenizer, and 16 rows: four optimizer steps to the epoch."""
    questions = [question(pens, more) for pens in range(2, 6) for more in range(3, 7)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    train_tokenizer([row["question"] + row["answer"] for row in questions]).save_pretrained(folder / "model")
    tiny_model(name, vocab_size=VOCABULARY_SIZE).save_pretrained(folder / "model")
    return folder


def config(base, folder, **options):
    """Two phases of one epoch each, with two micro-batches per step and a checkpoint at every step."""
    defaults = {
        "model": str(base / "model"),
        "data": str(base / "rows.jsonl"),
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-3,
        "max_length": 64,
        "logging_steps": 1.0,
        "save_steps": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if options.get("method", "condenser") == "condenser":
        defaults |= {"bias_step": GAMMA1, "bias_step_condense": GAMMA2, "num_condensers": "1"}
    return Recipe.of(**{**defaults, **options})


class At(TrainerCallback):
    """Do something at one event of one step."""

    def __init__(self, event, step, action):
        def act(args, state, control, **kwargs):
            if state.global_step == step:
                action()

        setattr(self, event, act)


class Interrupted(Exception):  # noqa: N818 - it stands for a Ctrl-C, not for an error
    pass


def interrupt():
    raise Interrupted


def with_callback(phase, callback, original=phase_module.make_trainer):
    """`make_trainer`, with `callback` in front of all others in one phase."""

    def make(folder, rows, method, *rest):
        trainer = original(folder, rows, method, *rest)
        if method.phase == phase:
            trainer.callback_handler.callbacks.insert(0, callback)
        return trainer

    return make


def interrupted(base, folder, phase, event, step, **options):
    """A run that stops there; `Interrupted` is what ended it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase_module, "make_trainer", with_callback(phase, At(event, step, interrupt)))
        with pytest.raises(Interrupted):
            train(config(base, folder, **options))


def read(path):
    return json.loads(path.read_text())


def log_of(folder, *drop):
    """The logged steps; the summaries at the end of a phase hold times."""
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in entry.items() if k not in drop} for entry in entries if "loss" in entry]


def tensors_of(folder, phases=PHASES, last=STEPS):
    """Every number that a finished run leaves: weights, bias, condensers, usage, and the optimizer's state."""
    found = {}
    for phase in phases:
        for name in ("model", "usage"):
            tensors = load_file(folder / phase / "final" / f"{name}.safetensors")
            found |= {f"{phase}.{name}.{key}": value for key, value in tensors.items()}
        optimizer = torch.load(folder / phase / f"checkpoint-{last}" / "optimizer.pt", weights_only=True)
        for index, state in optimizer["state"].items():
            found |= {f"{phase}.optimizer.{index}.{key}": value for key, value in state.items()}
    return found | {f"result.{key}": value for key, value in load_file(folder / "model" / "model.safetensors").items()}


def assert_identical(folder, expected, phases=PHASES, last=STEPS):
    found, wanted = tensors_of(folder, phases, last), tensors_of(expected, phases, last)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert log_of(folder, "num_tokens") == log_of(expected, "num_tokens")
    for phase in phases:
        assert read(folder / phase / "final" / "method_state.json") == read(
            expected / phase / "final/method_state.json"
        )
        counts = [read(run / "run.json")["phases"][phase] for run in (folder, expected)]
        assert [c["steps"] for c in counts] == [last, last]
        assert counts[0]["tokens"] == counts[1]["tokens"]
    if phases == PHASES:
        assert read(folder / "condensers.json") == read(expected / "condensers.json")
