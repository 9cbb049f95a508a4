"""LoRA with every method: trained by a recipe, resumed, merged with a check, and reloaded in both forms."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from expert_condenser import METHODS, RoutingConfig, attach, moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError, RoutingError, TrainingError
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.testing import tiny_batch
from expert_condenser.training.publish import MERGE_TOLERANCE
from expert_condenser.training.run import train
from tests.runs import STEPS, config, interrupted, log_of, make_base, read

IDS = tiny_batch(2, 9)


@pytest.fixture(scope="module", params=["olmoe", "gpt_oss"])
def base(request, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp(request.param), request.param)


def options_of(method, **options):
    lora = {"lora": "experts" if method.startswith("esft") else "attention+experts", "lora_r": 4, "lora_alpha": 8}
    scored = {"top_p": 0.4, "score_rows": 8} if method.startswith("esft") else {}
    gates = {"router": "lora"} if method in ("sft_aux", "densemixer") else {}
    aux = {"aux_loss_coef": 0.05} if method == "sft_aux" else {}
    bias = {"bias_step": 1e-2} if method in ("loss_free", "bias_only") else {}
    epochs = {"num_train_epochs": float(len(METHODS[method].phases))}
    return {"method": method, **lora, **scored, **gates, **aux, **bias, **epochs, **options}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("method", ["smt", "router_only"])
def test_a_method_of_the_base_s_weights_alone_is_refused(base, tmp_path, method):
    blocks = {"smt_block": 4} if method == "smt" else {}
    with pytest.raises(TrainingError, match=f"{method} trains .* with an adapter the base stays"):
        train(config(base, tmp_path, **options_of(method, **blocks)))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("smt", "router_only")])
def test_a_method_with_lora_trains_resumes_merges_and_reloads(base, tmp_path, method):
    options, phase = options_of(method), METHODS[method].phases[-1]
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", phase, "on_step_begin", 2, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    adapters = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("whole", "cut")]
    assert adapters[0].keys() == adapters[1].keys()
    assert [name for name, value in adapters[0].items() if not torch.equal(value, adapters[1][name])] == []
    assert log_of(tmp_path / "cut", "num_tokens") == log_of(tmp_path / "whole", "num_tokens")
    record = read(tmp_path / "whole" / "run.json")
    assert 0 <= record["merge_difference"] <= MERGE_TOLERANCE
    assert record["trainable"]["norms"]["trainable"] == 0
    assert (record["trainable"]["router"]["trainable"] > 0) == (options.get("router") == "lora")
    adapted, merged = load_model(tmp_path / "whole" / "adapter"), load_model(tmp_path / "whole" / "model")
    assert isinstance(adapted, PeftModel)
    assert not isinstance(merged, PeftModel)
    assert torch.allclose(logits_of(adapted), logits_of(merged), atol=1e-4)
    assert not torch.allclose(logits_of(adapted), logits_of(load_model(base / "model")), atol=1e-4)
    if method == "condenser":
        assert condensers_of(adapted) == condensers_of(merged)
        assert all(len(ids) == 1 for ids in condensers_of(merged).values())
        assert torch.equal(selection_biases(adapted), selection_biases(merged))
        assert selection_biases(adapted).abs().max() > 0.01


def test_esft_with_lora_leaves_the_other_experts_as_they_were(base, tmp_path):
    train(config(base, tmp_path, **options_of("esft_gate", weight_decay=0.1)))
    chosen = json.loads((tmp_path / "expert_cfg.json").read_text())["experts"]
    before, after = load_model(base / "model"), load_model(tmp_path / "model")
    for index, (old, new) in enumerate(zip(moe_layers(before), moe_layers(after), strict=True)):
        for expert in range(8):
            same = torch.equal(old.experts.down_proj[expert], new.experts.down_proj[expert])
            assert same == (expert not in chosen[str(index)])


def test_dora_on_attention(base, tmp_path):
    train(config(base, tmp_path, method="sft", lora="attention", lora_r=2, lora_dora=True, num_train_epochs=1.0))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in saved)
    assert len(log_of(tmp_path)) == STEPS


STOCK = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
if sys.argv[3] == "import":
    import expert_condenser
PeftModel.from_pretrained(base, sys.argv[2])
"""


def test_stock_peft_refuses_an_adapter_with_router_state_and_says_what_to_install(base, tmp_path):
    train(config(base, tmp_path, **options_of("bias_only", max_steps=1)))

    def load(how):
        command = [sys.executable, "-c", STOCK, str(base / "model"), str(tmp_path / "adapter"), how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = load("stock")
    assert refused.returncode != 0
    assert "pip install expert-condenser" in refused.stderr
    assert load("import").returncode == 0


def test_an_adapter_with_router_state_wants_a_plain_base_and_no_second_adapter(base, tmp_path):
    train(config(base, tmp_path, **options_of("bias_only", max_steps=1)))
    for other in (None, RoutingConfig(preset="reference")):
        with pytest.raises(RoutingError, match="Load it onto a plain base"):
            PeftModel.from_pretrained(attach(load_model(base / "model"), other), tmp_path / "adapter")
    model = load_model(tmp_path / "adapter")
    with pytest.raises(RoutingError, match="one adapter with router state"):
        model.load_adapter(str(tmp_path / "adapter"), "second")


def test_a_damaged_adapter_is_refused(base, tmp_path):
    train(config(base, tmp_path, **options_of("sft", max_steps=1)))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="must hold the whole adapter; missing"):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": "experts", "lora_dropout": 0.05}, "neither lora_dropout nor lora_dora exists"),
        ({"lora": "attention+experts", "lora_dora": True}, "neither lora_dropout nor lora_dora exists"),
        ({"lora": "attention", "router": "lora", "lora_dropout": 0.05}, "neither lora_dropout nor lora_dora exists"),
        ({"lora": "mlp"}, "lora is one of attention, experts, attention\\+experts .*; got 'mlp'"),
        ({"lora": "attention+router"}, "lora is one of"),
        ({"lora": "attention", "lora_r": 0}, "lora_r and lora_alpha are at least 1"),
        ({"lora": "attention", "lora_alpha": 0}, "lora_r and lora_alpha are at least 1"),
        ({"lora": "attention", "top_k": 5}, "top_k is a field of the model's config, and an adapter has none"),
        ({"lora_r": 8}, "lora_r is of an adapter, and there is none"),
        ({"router": "lora"}, "set lora as well"),
    ],
)
def test_adapter_options_that_cannot_be_meant(base, tmp_path, options, message):
    with pytest.raises(TrainingError, match=message):
        config(base, tmp_path, **{"method": "sft", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sft", "lora": "attention", "router": "train"}, "router is 'freeze' or 'lora'"),
        ({"method": "densemixer", "lora": "attention"}, "none of them trains"),
        ({"method": "sft_aux", "lora": "attention", "aux_loss_coef": 0.1}, "none of them trains"),
        ({"method": "esft_gate", "lora": "attention"}, "it needs lora='experts'"),
        ({"method": "esft_gate", "lora": "experts", "non_expert_modules": True}, "the weights of the base stay"),
        ({"method": "esft_gate", "lora": "attention+experts"}, "the adapter also trains attention"),
    ],
)
def test_adapters_that_the_method_has_no_place_for(base, tmp_path, options, message):
    with pytest.raises(TrainingError, match=message):
        train(config(base, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
