"""The methods on families whose routers do what no other family's does: trained, resumed, reloaded, or refused."""

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, moe_layers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import RoutingError, TrainingError, UnsupportedModelError
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.moe.parameters import parameter_groups
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.run import train
from tests.moe.test_families import eager
from tests.runs import assert_identical, config, interrupted, make_base, read

SLICED = ("gemma4_text", "phimoe", "longcat_flash", "inkling_text", "llama4_text")
"""Families whose fused weights have one slice per expert."""
WITH_IMAGES = ("gemma4", "inkling_mm_model", "llama4", "nemotron_h_omni")
every_family = pytest.mark.parametrize("name", [*SLICED, "dbrx", *WITH_IMAGES])
every_sliced = pytest.mark.parametrize("name", SLICED)
MIXED = ("gemma4_text", "longcat_flash", "inkling_text", "dbrx")
ALONE = {name: {"budget": "additive"} for name in ("llama4_text", "llama4")}
"""What the method needs where a token has one expert."""
LORA = {"method": "sft", "lora": "experts", "lora_r": 2, "lora_alpha": 4, "num_train_epochs": 1.0}
ESFT = {"method": "esft_gate", "top_p": 0.4, "score_rows": 8, "num_train_epochs": 1.0}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            made[name] = make_base(tmp_path_factory.mktemp(name), name)
        return made[name]

    return make


@every_family
def test_the_method_trains_resumes_and_reloads(name, base_of, tmp_path):
    base, options = base_of(name), {"num_train_epochs": 2.0, **ALONE.get(name, {})}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "condense", "on_step_begin", 2, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole")
    model = load_model(tmp_path / "whole" / "model")
    found = read(tmp_path / "whole" / "condensers.json")["layers"]
    assert [layer.router.condenser_ids.tolist() for layer in moe_layers(model)] == [x["condensers"] for x in found]
    assert all(len(layer["condensers"]) == 1 for layer in found)
    with torch.no_grad():
        assert model(input_ids=tiny_batch(2, 9)).logits.isfinite().all()


@every_sliced
def test_esft_trains_the_chosen_experts_and_no_other(name, base_of, tmp_path):
    base = base_of(name)
    train(config(base, tmp_path, **ESFT))
    chosen = read(tmp_path / "expert_cfg.json")["experts"]
    model, start = load_model(tmp_path / "model"), load_model(base / "model")
    assert len(chosen) == len(moe_layers(model))
    for layer, ids in zip(moe_layers(model), chosen.values(), strict=True):
        for key, parameter in layer.experts.named_parameters():
            before = start.get_parameter(f"{layer.block}.experts.{key}")
            moved = {i for i in range(len(parameter)) if not torch.equal(parameter[i], before[i])}
            assert moved == set(ids)
    groups = parameter_groups(model, moe_layers(model))
    rest = [key for key, group in groups.items() if group != "routed experts"]
    assert all(torch.equal(model.get_parameter(key), start.get_parameter(key)) for key in rest)


@every_sliced
def test_lora_trains_and_resumes(name, base_of, tmp_path):
    base = base_of(name)
    train(config(base, tmp_path / "whole", **LORA))
    interrupted(base, tmp_path / "cut", "train", "on_step_begin", 2, **LORA)
    train(config(base, tmp_path / "cut", resume=True, **LORA))
    found, wanted = (load_model(tmp_path / run / "model").state_dict() for run in ("cut", "whole"))
    start = load_model(base / "model").state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    moved = {key for key in start if not torch.equal(start[key], wanted[key])}
    assert moved
    assert all(".experts." in key for key in moved)


def mixed(name, mixer):
    model = eager(tiny_model(name)).train()
    method = METHODS["sft"]() if mixer is None else METHODS["densemixer"](MethodConfig(mixer=mixer))
    method.prepare(model)
    return model


def loss_and_gradients(model):
    loss = model(input_ids=tiny_batch(3, 7), labels=tiny_batch(3, 7), use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MIXED)
def test_densemixer_has_the_sparse_forward_and_the_dense_gradient_of_the_router(name):
    """Both implementations agree; the experts of the last layer learn as in plain fine-tuning, its router does not."""
    loss, sft = loss_and_gradients(mixed(name, None))
    found = {mixer: loss_and_gradients(mixed(name, mixer)) for mixer in ("lean", "plain")}
    assert found["lean"][0] == loss == pytest.approx(found["plain"][0], rel=1e-6)
    model = mixed(name, "lean")
    last, groups = moe_layers(model)[-1], parameter_groups(model, moe_layers(model))
    lean, plain = found["lean"][1], found["plain"][1]
    for key, gradient in plain.items():
        assert torch.allclose(lean[key], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item()), key
    routers = [key for key in sft if groups[key] == "router" and key.startswith(last.block)]
    assert routers
    assert all(not torch.allclose(sft[key], lean[key], rtol=1e-2, atol=0) for key in routers)
    experts = [key for key in sft if groups[key] == "routed experts" and key.startswith(last.block)]
    assert all(torch.equal(sft[key], lean[key]) for key in experts)
    assert not attachment_of(model).policy


@pytest.mark.parametrize(
    ("name", "reason"),
    [("phimoe", "SparseMixer has a gradient of its own"), ("llama4_text", "it weighs the input of an expert")],
)
def test_densemixer_is_refused_where_the_output_is_no_weighed_sum(name, reason):
    model = tiny_model(name)
    with pytest.raises(UnsupportedModelError, match=reason):
        METHODS["densemixer"]().prepare(model)
    assert find_attachment(model) is None, "nothing was changed"


def test_stacked_experts_train_whole_or_not_at_all(base_of, tmp_path):
    """DBRX has no slice per expert: neither ESFT nor an adapter on experts can tell them apart, and both say so."""
    base = base_of("dbrx")
    with pytest.raises(TrainingError, match=r"experts train as slices .* has mlp.v1, mlp.w1, mlp.w2 besides"):
        train(config(base, tmp_path / "esft", **ESFT))
    with pytest.raises(TrainingError, match="stacked in matrices"):
        train(config(base, tmp_path / "experts", **LORA))
    options = {**LORA, "lora": "attention", "router": "lora"}
    train(config(base, tmp_path / "others", **options))
    start, found = load_model(base / "model").state_dict(), load_model(tmp_path / "others" / "model").state_dict()
    moved = {key for key in start if not torch.equal(start[key], found[key])}
    assert {key.split(".")[3] for key in moved} == {"norm_attn_norm", "ffn"}
    assert all(key.endswith((".Wqkv.weight", ".out_proj.weight", ".router.layer.weight")) for key in moved)


def test_one_expert_per_token_leaves_no_room_in_the_shared_budget():
    """The default number of condensers is refused with what to set; with it, every token has them besides."""
    model = tiny_model("llama4_text")
    with pytest.raises(RoutingError, match=r"K = 1 expert per token .* Set budget='additive'"):
        METHODS["condenser"]().prepare(model)
