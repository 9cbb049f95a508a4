"""A MoE model from a dense one: the same logits in float32 and float64, whatever the rows of the router are."""

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import SurgeryError
from expert_condenser.surgery.dense_types import TARGETS
from expert_condenser.surgery.upcycle import Shape, upcycled
from tests.finetune import tokenizer

IDS = torch.randint(2, 96, (3, 14), generator=torch.Generator().manual_seed(0))
TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
OWN = {
    "llama": {
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    },
    "mistral": {"sliding_window": 6, "rms_norm_eps": 1e-3},
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    "qwen3": {"hidden_act": "gelu"},
}


def dense(family, dtype=torch.float32, **options):
    """A tiny dense model with large weights, biases and norms, so that all of them count."""
    config = AutoConfig.for_model(family, **{**TINY, **OWN[family], **options})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def apart(model, other):
    other.set_experts_implementation("eager")  # which has float64
    with torch.no_grad():
        wanted, found = model(input_ids=IDS).logits, other(input_ids=IDS).logits
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("family", TARGETS)
def test_the_first_forward_is_the_same(family, dtype, rounding):
    """In float64 too the families compute their routing weights and norms in float32."""
    model = dense(family, dtype)
    for shape in (Shape(4, 2), Shape(3, 4, top_k=6, seed=1), Shape(1, 3), Shape(2, 1)):
        moe = upcycled(model, shape)
        assert moe.config.model_type == TARGETS[family].model_type
        assert [(layer.num_experts, layer.top_k) for layer in moe_layers(moe)] == [
            (shape.num_experts, shape.chosen)
        ] * 2
        assert apart(model, moe) < rounding, shape
    with torch.no_grad():
        moe_layers(moe)[1].experts.down_proj[0] *= 1.01
    assert apart(model, moe) > 10 * rounding, "control: one shard is scaled wrongly"


def test_copies_are_chosen_whole_and_differently(recorded_routing):
    moe = upcycled(dense("llama"), Shape(4, 3))
    with recorded_routing(moe) as calls, torch.no_grad():
        moe(input_ids=IDS)
    for _, _, weights, indices in calls:
        assert torch.equal(indices.sort(-1).values % 4, torch.arange(4).expand_as(indices))
        assert (indices // 4 == indices[:, :1] // 4).all()
        torch.testing.assert_close(weights, torch.full_like(weights, 0.25))
        assert len((indices[:, 0] // 4).unique()) > 1, "not one copy for all tokens"


def test_noise_breaks_copies_apart():
    model = dense("llama")
    assert apart(model, upcycled(model, Shape(4, 2, router_noise=0.05))) > 1e-3


@pytest.mark.parametrize(("budget", "whole"), [("additive", True), ("shared", False)])
def test_a_condenser_takes_the_place_of_a_shard_unless_it_is_additive(recorded_routing, budget, whole):
    """An additive one comes beside the K others: the shards of the copy that was chosen, but for itself."""
    moe = attach(upcycled(dense("llama"), Shape(4, 2)), RoutingConfig(budget=budget))
    set_condensers(moe, {0: [1], 1: [6]})
    with recorded_routing(moe) as calls, torch.no_grad():
        moe(input_ids=IDS)
    for _, _, _, indices in calls:
        copies = [sorted(row.tolist()) for row in indices]
        complete = [set(range(4)) <= set(row) or set(range(4, 8)) <= set(row) for row in copies]
        assert all(complete) == whole


def test_an_idle_shared_expert_stays_idle():
    moe = upcycled(dense("qwen2"), Shape(4, 2)).train()
    moe(input_ids=IDS, labels=IDS).loss.backward()
    shared = {n: p for n, p in moe.named_parameters() if ".shared_expert" in n}
    assert len(shared) == 8
    assert all(not p.any() for p in shared.values())
    assert all(p.grad is None or not p.grad.any() for p in shared.values())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(5, 2), "48 units is cut into equal shards; 5 is no divisor"),
        (Shape(4, 2, top_k=6), "a multiple of 4 shards up to 8; got 6"),
        (Shape(4, 2, top_k=12), "got 12"),
        (Shape(1, 1), "2 experts or more"),
        (Shape(4, 2, router_std=0.0), "equal rows tie"),
        *(
            (Shape(4, 2, router_noise=noise), f"0 or more; got 0.02 and {noise}")
            for noise in (-1.0, math.nan, math.inf)
        ),
        *((Shape(4, 2, router_std=std), f"got {std} and 0.0") for std in (math.nan, math.inf)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(SurgeryError, match=message):
        upcycled(dense("llama"), shape)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", {"attention_bias": True}, "Mixtral has none"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("qwen3", {"attention_bias": True}, "attention has biases"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "a window"),
    ],
)
def test_what_no_moe_type_has_is_refused(family, options, message):
    with pytest.raises(SurgeryError, match=message):
        upcycled(dense(family, **options), Shape(4, 2))


def test_other_families_are_refused():
    config = AutoConfig.for_model("gemma", **TINY)
    with pytest.raises(SurgeryError, match="llama, mistral, qwen2, qwen3; got gemma"):
        upcycled(AutoModelForCausalLM.from_config(config), Shape(4, 2))


def test_the_command(tmp_path, capsys):
    model = dense("llama")
    model.save_pretrained(tmp_path / "dense")
    tokenizer().save_pretrained(tmp_path / "dense")
    words = ["upcycle", "--model", str(tmp_path / "dense"), "--output_dir", str(tmp_path / "moe")]
    assert main([*words, "--shards", "5"]) == 2
    assert "no divisor" in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()
    assert main([*words, "--shards", "4", "--copies", "3"]) == 0
    out = capsys.readouterr().out
    assert "12 experts, 4 per token" in out
    assert f"--model {tmp_path / 'moe'} --method condenser --budget additive" in out
    assert apart(model, load_model(tmp_path / "moe")) < 1e-5
    made = json.loads((tmp_path / "moe" / "provenance.json").read_text())["upcycled"]
    assert (made["shards"], made["copies"], made["model"]) == (4, 3, str(tmp_path / "dense"))
    assert made["difference"] < 1e-5
    assert main([*words, "--shards", "4"]) == 2
    assert "not there yet" in capsys.readouterr().err
