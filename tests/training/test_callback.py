"""One callback for any trainer: exact counts, one update per optimizer step, metrics that equal hand computation."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from expert_condenser import METHODS, MethodCallback, MethodConfig, attach, moe_layers, set_condensers
from expert_condenser.errors import CheckpointError, ExpertCondenserError, FailedRunError, TrainingError
from expert_condenser.methods.sft import Sft
from expert_condenser.moe.own_types import selection_biases
from expert_condenser.testing import tiny_batch, tiny_model
from tests.finetune import BATCH, STEPS, UsageRecorder, finetune, rows

TOP_K = 3
METRICS = {
    *("loss", "grad_norm", "learning_rate", "epoch", "nll", "expert_diversity", "usage_gini", "dead_experts"),
    *("route_churn", "condenser_gate_share", "bias_range"),
}


def padded(examples):
    """A batch as a bare `Trainer` wants it: padded on the right, no loss on padding."""
    longest = max(len(example["input_ids"]) for example in examples)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in examples])
    mask = (ids != 0).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


class Tracker(TrainerCallback):
    """What a tracker that sits behind the `MethodCallback` gets."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def bare_trainer(folder, method="bias_only", *, model=None, bias_step=1e-2, callbacks=(), **options):
    """A stock `Trainer` with the same batches as `finetune`; returns it, its callback and a recorder of the usage."""
    model = model or tiny_model()
    made = METHODS[method](MethodConfig(bias_step=bias_step))
    made.prepare(model)
    callback = MethodCallback(made)
    recorder = UsageRecorder(callback)
    defaults = {
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**defaults, **options}),
        train_dataset=rows().remove_columns("completion_mask"),
        data_collator=padded,
        callbacks=[callback, recorder, *callbacks],
    )
    return trainer, callback, recorder


@pytest.fixture(scope="module")
def with_trl(tmp_path_factory):
    return finetune(tmp_path_factory.mktemp("trl"), learning_rate=0.0)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_bare_trainer_counts_what_trl_counts(tmp_path, with_trl, accumulation):
    batches = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    trainer, _, recorder = bare_trainer(tmp_path, **batches)
    trainer.train()
    assert len(recorder.usage) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(recorder.usage, with_trl.usage, strict=True))
    assert torch.equal(selection_biases(trainer.model), with_trl.bias)
    assert with_trl.bias.abs().max() >= 0.02
    tokens = sum(len(row) for row in rows()["input_ids"])
    assert sum(int(usage[0].sum()) for usage in recorder.usage) == tokens * TOP_K


def test_control_the_last_micro_batch_alone_has_other_counts(tmp_path, with_trl):
    trainer, _, recorder = bare_trainer(tmp_path, per_device_train_batch_size=BATCH // 4)
    trainer.train()
    assert not torch.equal(recorder.usage[0], with_trl.usage[0])


def test_metrics_are_in_the_log_of_every_step(tmp_path, with_trl):
    trainer, _, _ = bare_trainer(tmp_path)
    trainer.train()
    for log in (trainer.state.log_history, with_trl.log):
        assert [entry["step"] for entry in log[:-1]] == list(range(1, STEPS + 1))
        assert all(entry.keys() >= METRICS for entry in log[:-1])
        assert not METRICS & {"nll", "bias_range"} & log[-1].keys(), "the summary at the end is left alone"
    for bare, trl in zip(trainer.state.log_history[:-1], with_trl.log[:-1], strict=True):
        for name in METRICS - {"loss", "nll", "grad_norm", "learning_rate", "epoch"}:
            assert bare[name] == trl[name], name
        assert trl["nll"] == trl["loss"]


def test_trackers_get_at_most_twelve_scalars(tmp_path, monkeypatch):
    tracker = Tracker()
    trainer, *_ = bare_trainer(tmp_path / "bare", callbacks=[tracker])
    trainer.train()
    own = {"expert_diversity", "usage_gini", "dead_experts", "bias_range", "route_churn", "condenser_gate_share"}
    expected = {f"moe/{name}" if name in own else name for name in METRICS} | {"num_tokens"}
    assert own < METRICS
    assert set(tracker.logs[0]) == expected
    assert trainer.state.log_history[0].keys() >= METRICS, "files have the plain names"
    monkeypatch.setattr(UsageRecorder, "on_log", lambda self, *args, **kwargs: tracker.on_log(*args, **kwargs))
    tracker.logs.clear()
    outcome = finetune(tmp_path / "trl")
    assert len(tracker.logs) == STEPS + 1
    for logs in tracker.logs[:-1]:
        assert set(logs) == expected
        assert len(logs) <= 12
        assert all(isinstance(value, int | float) for value in logs.values())
    assert outcome.log[0].keys() >= {"entropy", "mean_token_accuracy"}, "the log history keeps TRL's extras"


def test_the_model_must_be_the_one_that_was_prepared(tmp_path):
    method = METHODS["bias_only"](MethodConfig())
    method.prepare(tiny_model())
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    with pytest.raises(TrainingError, match=r"the model that method\.prepare"):
        Trainer(tiny_model(), arguments, train_dataset=rows(), callbacks=[MethodCallback(method)]).train()


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    model = tiny_model()
    moe_layers(model)[1].router.weight.register_hook(lambda gradient: gradient * math.nan)
    trainer, *_ = bare_trainer(tmp_path, model=model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(TrainingError, match="a gradient is not finite at step 1"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_sft_logs_usage_and_no_bias(tmp_path):
    log = finetune(tmp_path, "sft").log
    assert {"nll", "expert_diversity", "usage_gini", "dead_experts"} <= log[0].keys()
    assert not {"bias_range", "route_churn", "condenser_gate_share"} & log[0].keys()


def test_nll_is_the_loss_without_the_auxiliary_term(tmp_path, monkeypatch):
    auxiliary = type("Auxiliary", (Sft,), {"router_aux_loss_coef": 0.5})
    monkeypatch.setitem(METHODS, "auxiliary", auxiliary)
    plain = finetune(tmp_path / "plain", "sft").log[0]
    with_term = finetune(tmp_path / "with", "auxiliary", router_aux_loss_coef=0.5).log[0]
    assert with_term["loss"] > plain["loss"] + 0.1
    assert with_term["nll"] == pytest.approx(plain["nll"], abs=1e-5)


@pytest.mark.parametrize("skipped", [True, False])
def test_a_skipped_optimizer_step_leaves_the_bias(skipped):
    model, method = tiny_model(), METHODS["bias_only"](MethodConfig(bias_step=0.5))
    method.prepare(model)
    callback, state = MethodCallback(method), SimpleNamespace(global_step=0, max_steps=4, logging_steps=1)
    callback.on_train_begin(None, state, None, model=model)
    callback.on_step_begin(None, state, None)
    model.train()(input_ids=tiny_batch())
    callback.on_optimizer_step(None, state, None, optimizer=SimpleNamespace(step_was_skipped=skipped))
    assert (selection_biases(model) != 0).any() != skipped
    assert callback.tokens() == (0 if skipped else tiny_batch().numel())
    assert all(layer.router.counter.counts.sum() == 0 for layer in moe_layers(model)), "the next step starts from zero"


def test_the_history_holds_every_token_once(tmp_path):
    trainer, callback, recorder = bare_trainer(tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    for step in range(1, STEPS + 1):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "usage.safetensors")
        assert saved["step"].tolist() == list(range(1, step + 1))
        assert saved["counts"].dtype == torch.int64
        assert torch.equal(saved["counts"], torch.stack(recorder.usage[:step]))
    assert callback.tokens() == sum(len(row) for row in rows()["input_ids"])


def test_the_history_has_one_entry_per_logged_interval(tmp_path):
    trainer, callback, recorder = bare_trainer(tmp_path, logging_steps=2, save_strategy="steps", save_steps=3)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-3" / "usage.safetensors")
    assert saved["step"].tolist() == [2]
    assert torch.equal(saved["counts"][0], recorder.usage[0] + recorder.usage[1])
    pending = json.loads((tmp_path / "checkpoint-3" / "method_state.json").read_text())["interval"]
    assert torch.equal(torch.tensor(pending), recorder.usage[2]), "a resume goes on with the open interval"
    assert callback.tokens() == sum(len(row) for row in rows()["input_ids"])


def test_the_history_of_a_finished_training_holds_the_last_steps_too(tmp_path):
    trainer, callback, recorder = bare_trainer(tmp_path, logging_steps=2)
    trainer.train()
    callback.write_history(tmp_path)
    assert torch.equal(load_file(tmp_path / "usage.safetensors")["counts"].sum(0), sum(recorder.usage))


def test_a_resume_needs_the_methods_state(tmp_path):
    trainer, *_ = bare_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    (tmp_path / "checkpoint-2" / "method_state.json").unlink()
    again, *_ = bare_trainer(tmp_path)
    with pytest.raises(TrainingError, match=r"a resume needs method_state.json.*checkpoint-2 has none"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("content", ["{}", "[]", "[" * 10_000 + "]" * 10_000])
def test_a_damaged_state_is_refused(tmp_path, content):
    trainer, *_ = bare_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    (tmp_path / "checkpoint-2" / "method_state.json").write_text(content)
    again, *_ = bare_trainer(tmp_path)
    with pytest.raises(ExpertCondenserError, match=r"method_state.json (is a method's state|must be JSON)"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_resume_with_another_method_is_refused(tmp_path):
    trainer, *_ = bare_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    again, *_ = bare_trainer(tmp_path, "loss_free")
    with pytest.raises(TrainingError, match=r"(?s)loss_free.*bias_only"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_loss_that_is_not_finite_stops_a_bare_trainer(tmp_path):
    model = tiny_model()
    model.lm_head.weight.data[5] = math.nan
    trainer, *_ = bare_trainer(tmp_path, model=model)
    with pytest.raises(TrainingError, match="a gradient is not finite at step 1"):
        trainer.train()


def per_token(model, layer, policy_bias):
    """Of one layer: every token's experts, its experts without bias, and its gate weights, by plain sorting."""
    taken, plain, gates = [], [], []
    with torch.no_grad():
        for ids in rows()["input_ids"][:BATCH]:
            calls = []
            hook = moe_layers(model)[layer].router.register_forward_hook(
                lambda *call, calls=calls: calls.append(call[2])
            )
            model.eval()(input_ids=torch.tensor([ids]))
            hook.remove()
            for logits in calls[0][0].double():
                scores = (logits.exp() / logits.exp().sum()).tolist()
                ranks = (logits + policy_bias).tolist()
                fixed = moe_layers(model)[layer].router.condenser_ids.tolist()
                others = [i for i in range(8) if i not in fixed]
                routed = sorted(others, key=lambda i: -ranks[i])[: TOP_K - len(fixed)]
                unbiased = sorted(others, key=lambda i: -scores[i])[: TOP_K - len(fixed)]
                taken.append({*fixed, *routed})
                plain.append({*fixed, *unbiased})
                gates.append({i: scores[i] for i in taken[-1]})
    return taken, plain, gates


def by_hand(model):
    """The metrics of the first `BATCH` rows, each run alone and unpadded."""
    sums = dict.fromkeys(["expert_diversity", "usage_gini", "dead_experts", "route_churn", "condenser_gate_share"], 0.0)
    biases = selection_biases(model)
    for layer, found in enumerate(moe_layers(model)):
        taken, plain, gates = per_token(model, layer, biases[layer])
        counts = [sum(i in experts for experts in taken) for i in range(8)]
        shares = [count / sum(counts) for count in counts]
        sums["expert_diversity"] += math.exp(-sum(p * math.log(p) for p in shares if p)) / 8
        sums["usage_gini"] += sum(abs(a - b) for a in shares for b in shares) / (2 * 8)
        sums["dead_experts"] += counts.count(0) / 8
        sums["route_churn"] += sum(a != b for a, b in zip(taken, plain, strict=True)) / len(taken)
        fixed = found.router.condenser_ids.tolist()
        mass = sum(sum(gate.values()) for gate in gates)
        sums["condenser_gate_share"] += sum(gate[i] for gate in gates for i in fixed) / mass
    spread = (biases.amax(-1) - biases.amin(-1)).mean().item()
    return {**{name: value / len(biases) for name, value in sums.items()}, "bias_range": spread}


def test_detailed_metrics_equal_hand_computation(tmp_path):
    model = attach(tiny_model(), MethodConfig().routing())
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.linspace(-1, 1, 8).roll(3))
    set_condensers(model, {0: [1, 4], 1: [0], 2: []})
    model.model.layers[1].mlp.gate.selection_bias[6] = -50.0  # never chosen: a dead expert
    expected = by_hand(model)
    still = {"bias_step": 0.0, "learning_rate": 0.0, "max_steps": 1}
    outcome = finetune(tmp_path, model=model, data=rows().select(range(BATCH)), **still)
    found = {name: outcome.log[0][name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(value > 0 for value in expected.values())
    assert expected["route_churn"] < 1 > expected["condenser_gate_share"]


class Muted(TrainerCallback):
    """After `step` steps, puts a forward before that of one router's class, as another library would."""

    def __init__(self, layer, step):
        self.router, self.step = layer.router, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            stock = self.router.base_class.forward
            self.router.forward = lambda *inputs: stock(self.router, *inputs)


@pytest.mark.parametrize("method", ["sft", "bias_only", "densemixer"])
@pytest.mark.parametrize("step", [0, 2])
def test_a_layer_that_counts_no_token_stops_the_training(method, step, tmp_path):
    model = tiny_model()
    trainer, *_ = bare_trainer(tmp_path, method, model=model, callbacks=[Muted(moe_layers(model)[1], step)])
    with pytest.raises(FailedRunError, match=rf"at step {step + 1}, 1 of 3 counted none \(model\.layers\.1\.mlp\.gate"):
        trainer.train()
    assert trainer.state.global_step == step


def test_a_model_that_trains_in_eval_mode_stops_too(tmp_path):
    class InEvalMode(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = self.compute_loss(model.eval(), inputs)
            self.accelerator.backward(loss)
            return loss.detach()

    trainer, callback, _ = bare_trainer(tmp_path)
    own = InEvalMode(
        trainer.model,
        trainer.args,
        trainer.data_collator,
        trainer.train_dataset,
        callbacks=[MethodCallback(callback.method)],
    )
    with pytest.raises(FailedRunError, match=r"3 of 3 counted none.*eval mode"):
        own.train()


def test_trl_s_trainer_stops_too(tmp_path, monkeypatch):
    model = tiny_model()
    mute = Muted(moe_layers(model)[0], 0)
    monkeypatch.setattr(UsageRecorder, "on_step_begin", mute.on_step_begin)
    with pytest.raises(FailedRunError, match="1 of 3 counted none"):
        finetune(tmp_path, "sft", model=model)


def test_weights_that_are_offloaded_are_not_trained():
    """Accelerate brings them for each forward: an optimizer would step on what is thrown away."""
    method, model = METHODS["sft"](MethodConfig()), cpu_offload(tiny_model())
    method.prepare(model)
    with pytest.raises(TrainingError, match=r"offloaded \(model\.embed_tokens\.weight"):
        MethodCallback(method).on_train_begin(None, SimpleNamespace(global_step=0), None, model=model)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["q_proj"]}, "got the adapters default"),
        ({"modules_to_save": ["gate"]}, r"gate\.original_module has none"),
    ],
    ids=["stock adapter", "copied routers"],
)
def test_an_adapter_made_afterwards_is_refused_where_it_loses_the_routing(lora, message):
    method, model = METHODS["bias_only"](MethodConfig()), tiny_model()
    method.prepare(model)
    adapted = get_peft_model(model, LoraConfig(**{"target_modules": ["q_proj"], **lora}))
    with pytest.raises(ExpertCondenserError, match=message):
        MethodCallback(method).on_train_begin(None, SimpleNamespace(global_step=0), None, model=adapted)


def test_control_a_stock_adapter_is_whole_where_nothing_is_added_to_the_model():
    method = METHODS["sft"](MethodConfig())
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    method.prepare(adapted)
    callback = MethodCallback(method)
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None, model=adapted)
    assert callback.attachment.policy is None
    assert [layer.router for layer in callback.layers] == [*callback.attachment.routers]


@pytest.mark.parametrize("tensor", ["selection_bias", "condenser_ids"])
def test_a_bare_trainer_does_not_go_on_from_a_faulty_router_state(tensor, tmp_path):
    trainer, *_ = bare_trainer(tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    folder = tmp_path / "checkpoint-2"
    again, *_ = bare_trainer(tmp_path, save_strategy="no")
    again.train(resume_from_checkpoint=str(folder))
    assert again.state.global_step == STEPS, "control: it goes on"
    tensors = load_file(folder / "model.safetensors")
    key = f"model.layers.1.mlp.gate.{tensor}"
    tensors[key] = torch.full((8,), math.nan) if tensor == "selection_bias" else torch.zeros(0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again, *_ = bare_trainer(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.gate: "):
        again.train(resume_from_checkpoint=str(folder))


def test_a_training_starts_with_a_state_that_can_be(tmp_path):
    trainer, *_ = bare_trainer(tmp_path)
    moe_layers(trainer.model)[2].router.selection_bias[3] = math.inf
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.gate: the selection bias is finite"):
        trainer.train()


def test_slices_under_zero3_need_a_trainer_that_writes_them_back(tmp_path):
    """DeepSpeed's mark on a parameter stands for DeepSpeed."""
    outcome = lambda: finetune(tmp_path, "esft_gate", model=model)  # noqa: E731
    model = tiny_model()
    model.lm_head.weight.ds_id = 0
    with pytest.raises(TrainingError, match="DeepSpeed ZeRO-3 goes past that"):
        outcome()
    model = tiny_model()
    assert outcome().usage, "control"
