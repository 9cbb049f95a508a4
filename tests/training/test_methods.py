"""Every method on the paper's families: it trains, an interrupted run ends like a whole one, the result reloads."""

import json

import pytest
import torch
from safetensors.torch import load_file

from expert_condenser import METHODS, moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import TrainingError
from expert_condenser.testing import tiny_batch
from expert_condenser.training.run import train
from tests.runs import STEPS, assert_identical, config, interrupted, log_of, make_base, read

PAPER_FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
OPTIONS = {
    "sft_aux": {"aux_loss_coef": 0.05},
    "loss_free": {"bias_step": 1e-2},
    "bias_only": {"bias_step": 1e-2},
    "esft_token": {"top_p": 0.4, "score_rows": 8},
    "esft_gate": {"top_p": 0.4, "score_rows": 8},
    "smt": {"smt_block": 4, "smt_share": 0.3, "smt_rows": 8},
}


@pytest.fixture(scope="module", params=PAPER_FAMILIES)
def base(request, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_resumes_and_reloads(base, tmp_path, method):
    options, phases = OPTIONS.get(method, {}), METHODS[method].phases
    whole = {"method": method, "num_train_epochs": float(len(phases)), **options}
    train(config(base, tmp_path / "whole", **whole))
    assert len(log_of(tmp_path / "whole")) == STEPS * len(phases)
    interrupted(base, tmp_path / "cut", phases[-1], "on_step_begin", 2, **whole)
    train(config(base, tmp_path / "cut", resume=True, **whole))
    assert_identical(tmp_path / "cut", tmp_path / "whole", phases, STEPS)
    record = read(tmp_path / "whole" / "run.json")
    assert record["finished"]
    assert record["steps"] == STEPS * len(phases)
    model, start = load_model(tmp_path / "whole" / "model"), load_model(base / "model")
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))}
    assert moved
    saved = load_file(tmp_path / "whole" / phases[-1] / "final" / "model.safetensors")
    assert any("experts" in name for name in saved)
    with torch.no_grad():
        assert model(input_ids=tiny_batch(2, 9)).logits.isfinite().all()
    frozen = {n for n, p in model.named_parameters() if n.startswith(tuple(x.name for x in moe_layers(model)))} - moved
    assert bool(frozen) == (method in ("frozen_router", "esft_token", "esft_gate", "smt")), json.dumps(sorted(frozen))


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "deepseek_v3", "granitemoe"])
def test_the_auxiliary_loss_is_the_training_s_and_not_the_model_s(tmp_path, family):
    """TRL changes the config, and reads numbers that some families name otherwise; the result has the base's."""
    base = make_base(tmp_path, family)
    start = read(base / "model" / "config.json")
    for method in ("sft", "sft_aux"):
        options = {"method": method, "max_steps": 1, **OPTIONS.get(method, {})}
        train(config(base, tmp_path / method, **options))
        saved = read(tmp_path / method / "model" / "config.json")
        fields = ("output_router_logits", "router_aux_loss_coef", "num_experts")
        assert {name: saved.get(name) for name in fields} == {name: start.get(name) for name in fields}
    assert any("aux_loss" in entry for entry in log_of(tmp_path / "sft_aux"))


def test_what_cannot_train_is_refused_before_an_earlier_run_is_deleted(tmp_path):
    base = make_base(tmp_path)
    train(config(base, tmp_path / "run", method="sft", max_steps=1))
    before = sorted(str(path) for path in (tmp_path / "run").rglob("*"))
    with pytest.raises(TrainingError, match="none of them trains"):
        train(config(base, tmp_path / "run", method="sft_aux", router="freeze", overwrite=True))
    assert sorted(str(path) for path in (tmp_path / "run").rglob("*")) == before
