"""A run trains one phase after the other, and an interrupted one ends where an uninterrupted one does, bit for bit."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from expert_condenser import MethodCallback
from expert_condenser.checkpoint.guard import is_whole
from expert_condenser.cli.main import main
from expert_condenser.errors import ExpertCondenserError, TrainingError
from expert_condenser.files import MANIFEST
from expert_condenser.moe.own_types import condensers_of
from expert_condenser.testing import tiny_model
from expert_condenser.training import phase as phase_module
from expert_condenser.training.folder import RunFolder
from expert_condenser.training.rows import load_rows_of
from expert_condenser.training.run import train
from expert_condenser.training.trainer import SeededLengthSampler, StrictSFTTrainer
from tests.finetune import rows, tokenizer
from tests.runs import (
    GAMMA1,
    GAMMA2,
    PHASES,
    STEPS,
    assert_identical,
    config,
    interrupted,
    log_of,
    make_base,
    read,
)
from tests.samples import SAMPLES

ROOT = Path(__file__).parents[2]
GSM8K = SAMPLES / "train" / "gsm8k.jsonl"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def observed():
    """What phase 2 of the `finished` run began with."""
    return {}


@pytest.fixture(scope="module")
def finished(base, observed, tmp_path_factory):
    """The folder of a run that nothing interrupted."""

    def look(folder, rows, method, model, callbacks, original=phase_module.make_trainer):
        trainer = original(folder, rows, method, model, callbacks)
        observed[method.phase] = {
            "state": {key: value.clone() for key, value in model.state_dict().items()},
            "condensers": condensers_of(model),
            "callbacks": list(trainer.callback_handler.callbacks),
            "args": trainer.args,
        }
        return trainer

    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase_module, "make_trainer", look)
        assert train(config(base, folder)) == folder / "model"
    return folder


def biases(folder):
    tensors = load_file(folder / "model.safetensors")
    return torch.stack([value for key, value in sorted(tensors.items()) if key.endswith("selection_bias")])


def test_both_phases_train(finished):
    record = read(finished / "run.json")
    assert record["finished"] is True
    assert [(name, phase["steps"]) for name, phase in record["phases"].items()] == [(name, STEPS) for name in PHASES]
    log = log_of(finished)
    assert [(entry["phase"], entry["step"]) for entry in log] == [(p, s) for p in PHASES for s in range(1, STEPS + 1)]
    assert log[0]["nll"] > log[3]["nll"] + 0.1 > log[7]["nll"] + 0.2
    for phase in PHASES:
        first, last = (load_file(finished / phase / name / "model.safetensors") for name in ("checkpoint-1", "final"))
        weights = [key for key in first if not key.endswith(("selection_bias", "condenser_ids"))]
        assert not any(torch.equal(first[key], last[key]) for key in weights), "every weight trains"


def test_the_record(finished, base):
    record = read(finished / "run.json")
    assert record["method"] == "condenser"
    assert record["config"]["learning_rate"] == 3e-3
    assert record["config"]["model"] == str(base / "model")
    assert record["config"].get("hub_token") is None
    assert {"torch", "transformers", "trl", "expert-condenser"} <= record["versions"].keys()
    assert read(finished / "model" / "provenance.json")["phases"] == record["phases"]
    for phase in PHASES:
        assert all(is_whole(folder) for folder in (finished / phase).glob("checkpoint-*"))
        assert is_whole(finished / phase / "final")
        usage = load_file(finished / phase / "final" / "usage.safetensors")
        assert usage["step"].tolist() == [1, 2, 3, 4]
        assert usage["counts"].shape == (4, 3, 8)
        assert usage["counts"].sum((0, 2)).tolist() == [record["phases"][phase]["tokens"] * 3] * 3


def test_phase_2_begins_where_phase_1_ended(finished, observed):
    began, ended = observed["condense"]["state"], load_file(finished / "sparsify" / "final" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(finished / "sparsify" / "final", dtype="float32")
    assert not any(condensers_of(model).values())
    assert biases(finished / "sparsify" / "final").abs().max() == pytest.approx(STEPS * GAMMA1)
    for key, value in model.state_dict().items():
        if not key.endswith("condenser_ids"):
            assert torch.equal(began[key], value), key
    assert any(key.endswith("selection_bias") for key in ended)
    moved = (biases(finished / "condense" / "final") - biases(finished / "sparsify" / "final")).abs()
    assert 0 < moved.max() <= STEPS * GAMMA2 * 1.001
    assert observed["condense"]["args"].seed == observed["sparsify"]["args"].seed + 1


def test_the_condensers_are_those_with_the_lowest_bias_of_phase_1(finished, observed):
    report, learnt = read(finished / "condensers.json"), biases(finished / "sparsify" / "final")
    assert [entry["condensers"] for entry in report["layers"]] == list(observed["condense"]["condensers"].values())
    for layer, entry in enumerate(report["layers"]):
        (chosen,) = entry["condensers"]
        assert learnt[layer, chosen] == learnt[layer].min()
        usage = load_file(finished / "sparsify" / "final" / "usage.safetensors")["counts"].sum(0)[layer]
        assert entry["usage"] == usage.tolist()
        assert entry["bias"] == pytest.approx(learnt[layer].tolist(), abs=1e-6)
        assert usage[chosen] == usage[learnt[layer] == learnt[layer].min()].min(), "a tie goes to the less used"
    tensors = load_file(finished / "model" / "model.safetensors")
    ids = [value.tolist() for key, value in sorted(tensors.items()) if key.endswith("condenser_ids")]
    assert ids == [entry["condensers"] for entry in report["layers"]]


def test_the_methods_numbers_come_before_the_trackers(observed):
    for phase in PHASES:
        assert isinstance(observed[phase]["callbacks"][0], MethodCallback)


def test_the_result_loads_and_generates(finished):
    model = AutoModelForCausalLM.from_pretrained(finished / "model", dtype="float32")
    words = AutoTokenizer.from_pretrained(finished / "model")
    assert type(model).__name__ == "CondenserOlmoeForCausalLM"
    final = load_file(finished / "condense" / "final" / "model.safetensors")
    saved = load_file(finished / "model" / "model.safetensors")
    assert saved.keys() == final.keys()
    assert all(torch.equal(saved[key], final[key]) for key in final)
    inputs = words.apply_chat_template(
        [{"role": "user", "content": "Tom has 2 pens."}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 5
    assert not {"optimizer.pt", MANIFEST, "training_args.bin"} & {file.name for file in (finished / "model").iterdir()}


def totals(folder):
    phases = read(folder / "run.json")["phases"].values()
    return sum(phase["steps"] for phase in phases), sum(phase["tokens"] for phase in phases)


def test_sft_trains_as_many_steps_and_tokens(base, finished, tmp_path):
    train(config(base, tmp_path / "run", method="sft"))
    assert totals(tmp_path / "run") == totals(finished)
    assert read(tmp_path / "run" / "run.json")["phases"].keys() == {"train"}
    assert not (tmp_path / "run" / "condensers.json").exists()
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")).__name__ == "OlmoeForCausalLM"


def test_epochs_that_cannot_be_halved_are_refused(base, tmp_path):
    """Half of an odd number of steps, rounded up twice, would be one step more than `sft` takes."""
    with pytest.raises(TrainingError, match=r"divided equally among 2 phases, whole ones.*got num_train_epochs = 1.0"):
        train(config(base, tmp_path / "run", num_train_epochs=1.0))
    assert not (tmp_path / "run").exists()


def test_evaluation_changes_nothing(base, finished, tmp_path):
    folder = tmp_path / "run"
    train(config(base, folder, eval_data=str(base / "rows.jsonl"), eval_strategy="steps", eval_steps=2.0))
    assert_identical(folder, finished)
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(e["phase"], e["step"]) for e in entries if "eval_loss" in e] == [(p, s) for p in PHASES for s in (2, 4)]


def test_a_run_starts_from_a_base_model_not_from_a_finished_one(base, finished, tmp_path):
    for method in ("sft", "condenser"):
        options = config(base, tmp_path / method, method=method, model=str(finished / "model"))
        with pytest.raises(TrainingError, match="is the result of one, with router state or an adapter"):
            train(options)


def test_prompts_that_fill_max_length_leave_nothing_to_learn(base, tmp_path):
    with pytest.raises(TrainingError, match="no answer is left to learn from; raise max_length"):
        load_rows_of(config(base, tmp_path / "run", max_length=4))


def test_a_run_that_could_not_begin_leaves_output_dir_empty(base, tmp_path):
    with pytest.raises(ExpertCondenserError):
        train(config(base, tmp_path / "run", data=str(base / "misspelt.jsonl")))
    train(config(base, tmp_path / "run", max_steps=2, save_strategy="no"))


def test_resume_needs_a_run(base, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TrainingError, match=r"holds none \(run.json is missing\)"):
            RunFolder(config(base, folder, resume=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "bias_only", "bias_step": GAMMA1}, "method: 'condenser' there, 'bias_only' asked for"),
        ({"model": "testbed"}, r"model: '.*model' there, 'testbed' asked for"),
        ({"learning_rate": 1e-3}, "learning_rate: 0.003 there, 0.001 asked for"),
        ({"limit": 8}, "limit: None there, 8 asked for"),
        ({"seed": 7}, "seed: 1234 there, 7 asked for"),
        ({"num_condensers": "2"}, "num_condensers: '1' there, '2' asked for"),
    ],
)
def test_resume_refuses_another_run(base, finished, options, named):
    with pytest.raises(TrainingError, match=named):
        RunFolder(config(base, finished, resume=True, **options))


def test_resuming_a_finished_run_changes_nothing(base, finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if "final" in path.parts}
    assert train(config(base, finished, resume=True, disable_tqdm=False)) == finished / "model"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read(finished / "run.json")["finished"] is True


@pytest.mark.parametrize(
    ("phase", "event", "step"),
    [
        ("sparsify", "on_step_end", 1),  # before the first checkpoint
        ("sparsify", "on_substep_end", 2),  # between the micro-batches of step 3
        ("sparsify", "on_train_end", 4),  # after the last checkpoint, before `final`
        ("condense", "on_train_begin", 0),  # right after phase 1
        ("condense", "on_substep_end", 3),
        ("condense", "on_save", 2),  # while a checkpoint is written
        ("condense", "on_train_end", 4),
    ],
)
def test_an_interrupted_run_ends_as_if_nothing_had_happened(base, finished, tmp_path, phase, event, step):
    interrupted(base, tmp_path / "run", phase, event, step)
    assert read(tmp_path / "run" / "run.json")["finished"] is False
    assert (tmp_path / "run" / "condensers.json").exists() == (phase == "condense")
    train(config(base, tmp_path / "run", resume=True))
    assert_identical(tmp_path / "run", finished)


def test_control_a_phase_begun_again_with_another_seed_ends_elsewhere(base, finished, tmp_path):
    train(config(base, tmp_path / "run", seed=7))
    with pytest.raises(AssertionError):
        assert_identical(tmp_path / "run", finished)


@pytest.mark.parametrize("steps", [2, 3])
def test_a_training_that_ends_inside_an_epoch_is_not_continued_by_a_resume(base, tmp_path, steps):
    options = {"method": "bias_only", "bias_step": GAMMA1, "max_steps": steps}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "train", "on_train_end", steps, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases=("train",), last=steps)


@pytest.mark.parametrize("step", [3, 6])
def test_rows_grouped_by_length_are_in_the_same_order_after_a_resume(base, tmp_path, step):
    """In the first and in the second epoch."""
    options = {"method": "sft", "train_sampling_strategy": "group_by_length", "num_train_epochs": 2.0}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "train", "on_step_end", step, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases=("train",), last=8)


def test_grouping_by_length_gives_another_order_in_every_epoch_and_for_every_seed():
    plain = LengthGroupedSampler(2, lengths=[len(str(7**i)) for i in range(40)])
    first, again, other = SeededLengthSampler(plain, 1), SeededLengthSampler(plain, 1), SeededLengthSampler(plain, 2)
    order = list(first)
    assert sorted(order) == list(range(40))
    assert list(again) == order != list(other)
    first.set_epoch(1)
    assert list(first) != order
    differences = [abs(plain.lengths[a] - plain.lengths[b]) for a, b in zip(order[::2], order[1::2], strict=True)]
    assert sum(differences) < 115  # half of what it is at random


def test_the_log_of_a_resumed_run_counts_all_tokens(base, finished, tmp_path):
    interrupted(base, tmp_path / "run", "condense", "on_step_end", 3)
    train(config(base, tmp_path / "run", resume=True))
    assert log_of(tmp_path / "run") == log_of(finished)


def test_more_than_one_interruption(base, finished, tmp_path):
    interrupted(base, tmp_path / "run", "sparsify", "on_step_end", 3)
    interrupted(base, tmp_path / "run", "condense", "on_step_end", 2, resume=True)
    interrupted(base, tmp_path / "run", "condense", "on_step_end", 4, resume=True)
    train(config(base, tmp_path / "run", resume=True))
    assert_identical(tmp_path / "run", finished)


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from tests.runs import At, config, phase_module, train, with_callback
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
phase_module.make_trainer = with_callback("condense", At("on_save", 3, kill))
train(config(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_process(base, finished, tmp_path):
    """SIGKILL while phase 2 writes its third checkpoint."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(base), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not is_whole(tmp_path / "run" / "condense" / "checkpoint-3")
    assert is_whole(tmp_path / "run" / "condense" / "checkpoint-2")
    train(config(base, tmp_path / "run", resume=True))
    assert_identical(tmp_path / "run", finished)


def test_control_a_stock_resume_loses_the_experts(tmp_path):
    """Why a run loads the checkpoint itself: `Trainer` restores all weights except the fused experts."""
    options = {"learning_rate": 0.0, "max_steps": 2, "save_steps": 1.0, "optim": "sgd", "report_to": "none"}
    arguments = {**options, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}

    def stock(model):
        args = SFTConfig(output_dir=str(tmp_path), **arguments)
        return SFTTrainer(model=model, args=args, train_dataset=rows(), processing_class=tokenizer())

    stock(tiny_model(seed=0)).train()
    resumed = tiny_model(seed=1)
    stock(resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    saved, fresh = tiny_model(seed=0).state_dict(), tiny_model(seed=1).state_dict()
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, (fresh if ".experts." in key else saved)[key]), key
    assert not torch.equal(saved["model.layers.0.mlp.experts.down_proj"], fresh["model.layers.0.mlp.experts.down_proj"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_last_checkpoint(base, finished, tmp_path, monkeypatch, value):
    def broken(self, *args, **kwargs):
        loss = SFTTrainer.compute_loss(self, *args, **kwargs)
        return loss * value if self.state.global_step == 2 else loss

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(StrictSFTTrainer, "compute_loss", broken)
        with pytest.raises(TrainingError, match=rf"loss is {value} at step 3; .*resume"):
            train(config(base, folder))
    assert sorted(path.name for path in (folder / "sparsify").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert is_whole(folder / "sparsify" / "checkpoint-2")
    saved = load_file(folder / "sparsify" / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    train(config(base, folder, resume=True))
    assert_identical(folder, finished)


def test_the_command_trains_on_gsm8k(base, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the argument parser passes 10 for 10.0
    arguments = {
        "model": base / "model",
        "data": GSM8K,
        "output_dir": tmp_path / "run",
        "limit": 32,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "max_length": 256,
        "num_condensers": 1,
        "bf16": "false",
        "gradient_checkpointing": "false",
        "use_cpu": "true",
        "report_to": "none",
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert main(["train", *words]) == 0
    assert totals(tmp_path / "run")[0] == 4
    assert main(["train", *words]) == 2, "the folder is taken now"
