"""A bare `Trainer` that resumes, or loads its best model, has every weight of the checkpoint."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from expert_condenser import METHODS, MethodCallback, MethodConfig, attach, moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import TrainingError
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import tiny_model
from expert_condenser.training import callback
from expert_condenser.training.restore import restore_weights
from tests.finetune import BATCH, make_method, rows
from tests.training.test_callback import padded

PAPER_FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
MIXED = PAPER_FAMILIES[:-1]
"""Those that a stock `Trainer` mixes; gpt-oss has its experts fused on disk too."""
every_family = pytest.mark.parametrize("family", PAPER_FAMILIES)


def trainer_of(folder, model, method=None, **options):
    """A stock `Trainer` of four steps with a checkpoint at each second one; with the callback if there is a method."""
    defaults = {
        "per_device_train_batch_size": BATCH // 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**defaults, **options}),
        train_dataset=rows().remove_columns("completion_mask"),
        eval_dataset=rows().remove_columns("completion_mask").select(range(4)),
        data_collator=padded,
        callbacks=[MethodCallback(method)] if method is not None else [],
    )


def bare(folder, family, method="bias_only", **options):
    model = tiny_model(family)
    return trainer_of(folder, model, make_method(method, model, bias_step=1e-2, top_p=1.0), **options)


def stock(folder, family, **options):
    return trainer_of(folder, tiny_model(family), **options)


def state_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differing(state, checkpoint):
    """The names of the tensors that are not what the checkpoint holds."""
    saved = load_model(checkpoint).state_dict()
    assert state.keys() == saved.keys()
    return {name for name, value in state.items() if not torch.equal(value, saved[name])}


@pytest.mark.parametrize("file", ["usage.safetensors", "method_state.json"])
def test_damaged_counts_are_an_error_that_names_the_file(file, tmp_path):
    bare(tmp_path, "olmoe", max_steps=2).train()
    path = tmp_path / "checkpoint-2" / file
    if file.endswith(".json"):
        path.write_text(path.read_text().replace("null", '"x"'))
    else:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TrainingError, match="this one is damaged"):
        bare(tmp_path, "olmoe").train(resume_from_checkpoint=str(path.parent))


def test_a_checkpoint_of_another_folder_is_not_mixed_with_one_of_the_same_step(tmp_path):
    for name, seed in (("one", 3), ("other", 4)):
        bare(tmp_path / name, "olmoe", seed=seed, max_steps=2).train()
    trainer = bare(tmp_path / "one", "olmoe", seed=3)
    with pytest.raises(TrainingError, match=r"has read another one than .*one/checkpoint-2"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "other" / "checkpoint-2"))
    bare(tmp_path / "one", "olmoe", seed=3).train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2"))


class AtBegin(TrainerCallback):
    """Keeps the model as a training finds it, behind the `MethodCallback`."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.state = state_of(model)


def resumed(trainer, folder):
    """The trainer's model before its first step after checkpoint 2; it goes on to the end."""
    begin = AtBegin()
    trainer.add_callback(begin)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    return begin.state


# Resume.


@pytest.mark.parametrize("family", MIXED)
def test_control_a_stock_trainer_resumes_with_other_experts(tmp_path, family):
    stock(tmp_path, family).train()
    names = differing(resumed(stock(tmp_path, family), tmp_path), tmp_path / "checkpoint-2")
    assert names
    assert all(".experts." in name for name in names), "two models: the experts of one, the rest of the other"


@pytest.mark.parametrize("method", ["sft", "bias_only", "esft_gate"])
@every_family
def test_a_resume_goes_on_as_if_nothing_had_happened(tmp_path, family, method):
    whole = bare(tmp_path, family, method)
    whole.train()
    again = bare(tmp_path, family, method)
    assert differing(resumed(again, tmp_path), tmp_path / "checkpoint-2") == set()
    expected = state_of(whole.model)
    assert [name for name, value in state_of(again.model).items() if not torch.equal(value, expected[name])] == []


def test_the_condensers_are_those_of_the_checkpoint(tmp_path):
    def trainer(biases):
        model, method = tiny_model(), METHODS["condenser"](MethodConfig(bias_step_condense=1e-2), "condense")
        attach(model, method.routing)
        for layer, bias in zip(moe_layers(model), biases, strict=True):
            layer.router.selection_bias.copy_(bias)
        method.prepare(model)
        return trainer_of(tmp_path, model, method)

    first, other = trainer(torch.arange(8.0).expand(3, 8)), trainer(-torch.arange(8.0).expand(3, 8))
    assert condensers_of(first.model) != condensers_of(other.model)
    first.train()
    assert differing(resumed(other, tmp_path), tmp_path / "checkpoint-2") == set()
    assert condensers_of(other.model) == condensers_of(first.model)


def test_an_adapter_is_resumed_whole(tmp_path):
    def trainer():
        options = AdapterConfig(lora="attention+experts", lora_r=2, lora_alpha=4)
        tiny_model().save_pretrained(tmp_path / "base")
        torch.manual_seed(0)
        base, method = load_model(tmp_path / "base"), METHODS["bias_only"](MethodConfig(bias_step=1e-2))
        model = add_adapter(base, options, ["attention", "experts"], method.routing)
        method.prepare(model)
        return trainer_of(tmp_path, model, method)

    whole, again = trainer(), trainer()
    whole.train()
    assert differing(resumed(again, tmp_path), tmp_path / "checkpoint-2") == set()
    assert torch.equal(selection_biases(again.model), selection_biases(whole.model))
    expected = state_of(whole.model)
    assert [name for name, value in state_of(again.model).items() if not torch.equal(value, expected[name])] == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    bare(tmp_path, "olmoe").train()
    model = tiny_model("olmoe", intermediate_size=16)
    model.save_pretrained(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "config.json").unlink()
    with pytest.raises(
        TrainingError, match=r"goes on from whole weights, and those in .* cannot be read.*load_model\(checkpoint\)"
    ):
        restore_weights(tiny_model("olmoe"), tmp_path / "checkpoint-2")


# The best model at the end.


BEST = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,  # the worse one, so that it is not the last
}


@pytest.mark.parametrize("family", MIXED)
def test_control_the_best_model_of_a_stock_trainer_has_the_last_experts(tmp_path, family):
    trainer = stock(tmp_path, family, **BEST)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    names = differing(state_of(trainer.model), tmp_path / "checkpoint-2")
    assert names
    assert all(".experts." in name for name in names)


@pytest.mark.parametrize("method", ["sft", "bias_only", "esft_gate"])
@every_family
def test_the_best_model_is_that_of_its_checkpoint(tmp_path, family, method):
    trainer = bare(tmp_path, family, method, **BEST)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert differing(state_of(trainer.model), tmp_path / "checkpoint-2") == set()
    assert differing(state_of(trainer.model), tmp_path / "checkpoint-4") != set(), "control"


def test_a_model_that_was_loaded_whole_is_not_loaded_again(tmp_path, monkeypatch):
    bare(tmp_path, "olmoe").train()
    loads = []
    monkeypatch.setattr(callback, "restore_weights", lambda model, checkpoint: loads.append(checkpoint.name))
    for loaded_from, expected in ((None, ["checkpoint-2"]), (tmp_path / "checkpoint-2", [])):
        model = load_model(tmp_path / "checkpoint-2")
        method = make_method("bias_only", model, bias_step=1e-2)
        trainer = trainer_of(tmp_path, model)
        trainer.add_callback(callback.MethodCallback(method, loaded_from))
        resumed(trainer, tmp_path)
        assert loads == expected
        loads.clear()
