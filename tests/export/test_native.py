"""A tuned model as a stock checkpoint: the stock class gives its logits, in a process that never imports us."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.catalog import catalog
from expert_condenser.cli.families import exports
from expert_condenser.errors import ExportError
from expert_condenser.export.native import export_native, lifted_correction
from expert_condenser.moe.families import FAMILIES
from expert_condenser.testing import tiny_batch, tiny_model
from tests.finetune import tokenizer

NATIVE = [name for name, family in FAMILIES.items() if family.rule.correction is not None]
IDS = tiny_batch(4, 32, seed=3)
GROUPS_KEPT = {"topk_group": 4}
"""All of the tiny models' four groups."""
LIFTED = RoutingConfig(condenser_groups="native")


def tuned(folder, family, count, policy=None, **options):
    """A saved model of our own type with a bias of several steps, a correction of its own, and condensers."""
    model = attach(tiny_model(family, **options), policy or RoutingConfig())
    layers = moe_layers(model)
    for index, layer in enumerate(layers):
        layer.router.selection_bias.copy_(torch.linspace(-0.3, 0.3, layer.num_experts).roll(index))
    weighted = layers[0].num_weighted
    set_condensers(model, {at: [(3 * at + n) % weighted for n in range(count)] for at in range(len(layers))})
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def logits_of(folder, dtype="float32"):
    with torch.no_grad():
        return load_model(folder, dtype, experts_implementation="eager").eval()(input_ids=IDS, use_cache=False).logits


STOCK = """
import json, sys, torch, transformers
from safetensors.torch import load_file, save_file
cases, found = json.loads(sys.argv[1]), {}
ids = load_file(sys.argv[2])["ids"]
for name, (folder, auto, dtype) in cases.items():
    model = getattr(transformers, auto).from_pretrained(
        folder, dtype=dtype, experts_implementation="eager"
    ).eval()
    with torch.no_grad():
        found[name] = model(input_ids=ids, use_cache=False).logits.contiguous()
assert not any(name.startswith("expert_condenser") for name in sys.modules)
save_file(found, sys.argv[3])
"""


def in_stock_process(tmp_path, cases):
    """Logits of every folder, by the stock classes alone."""
    save_file({"ids": IDS}, tmp_path / "ids.safetensors")
    asked = {}
    for name, (folder, dtype) in cases.items():
        kind = json.loads((folder / "config.json").read_text())
        auto = "AutoModelForCausalLM" if "text_config" not in kind else "AutoModelForImageTextToText"
        asked[name] = (str(folder), auto, dtype)
    words = [json.dumps(asked), str(tmp_path / "ids.safetensors"), str(tmp_path / "logits.safetensors")]
    subprocess.run([sys.executable, "-c", STOCK, *words], check=True, capture_output=True, text=True)
    from safetensors.torch import load_file

    return load_file(tmp_path / "logits.safetensors")


def variants(family):
    """How condensers and groups meet: `{name: (R, policy, options)}`."""
    grouped = moe_layers(tiny_model(family))[0].scoring.num_groups > 1
    kept = GROUPS_KEPT if grouped else {}
    found = {"bias": (0, None, {}), "one": (1, None, kept), "two": (2, None, kept)}
    return {**found, **({"lifted": (2, LIFTED, {})} if grouped else {})}


@pytest.mark.slow
def test_every_native_family_is_served_by_its_stock_class_to_the_bit(tmp_path):
    cases, wanted, wrong = {}, {}, {}
    for family in NATIVE:
        for name, (count, policy, options) in variants(family).items():
            source = tuned(tmp_path / f"{family}-{name}", family, count, policy, **options)
            target = tmp_path / f"{family}-{name}-native"
            export_native(str(source), target)
            cases[f"{family} {name}"] = (target, "float32")
            wanted[f"{family} {name}"] = logits_of(source)
            wrong[f"{family} {name}"] = tiny_model(family, **options)(input_ids=IDS, use_cache=False).logits
    found = in_stock_process(tmp_path, cases)
    assert [name for name in cases if not torch.equal(found[name], wanted[name])] == []
    assert [name for name in cases if torch.equal(found[name], wrong[name])] == [], "a stock model without the bias"


def test_b_prime():
    b, beta = torch.tensor([[0.25, -1.0, 0.5]]), torch.tensor([0.5, 0.5, -1.0])
    assert lifted_correction(b, beta, torch.tensor([1]), 1024.0).tolist() == [[0.75, 1024.0, -0.5]]


def test_a_stock_class_gives_the_logits_and_the_wrong_space_does_not(tmp_path):
    source = tuned(tmp_path / "tuned", "glm4_moe", 2, **GROUPS_KEPT)
    export_native(str(source), tmp_path / "native")
    found = in_stock_process(tmp_path, {"right": (tmp_path / "native", "float32")})
    assert torch.equal(found["right"], logits_of(source))
    model = load_model(tmp_path / "native")
    for layer in moe_layers(model):
        bias = layer.router.e_score_correction_bias
        bias.copy_(torch.where(bias < 512, torch.sigmoid(bias), bias))
    model.save_pretrained(tmp_path / "wrong")
    assert not torch.equal(
        in_stock_process(tmp_path, {"wrong": (tmp_path / "wrong", "float32")})["wrong"], found["right"]
    )


@pytest.mark.parametrize(
    ("family", "count", "policy", "dtype", "reason"),
    [
        ("olmoe", 1, {}, "float32", "olmoe has no correction bias"),
        ("glm4_moe", 1, {}, "float32", "a token chooses within a part of the groups"),
        ("kimi_linear", 0, {}, "bfloat16", "rounds its correction bias to bfloat16"),
        ("minimax_m2", 2, {"condenser_mass": "keep"}, "float32", "rescale their weights"),
        ("minimax_m2", 2, {"budget": "additive"}, "float32", "in another order"),
        ("minimax_m2", 0, {"budget": "recycle"}, "float32", "gates of its own"),
    ],
)
def test_what_is_not_exact_is_refused_and_nothing_is_written(tmp_path, family, count, policy, dtype, reason):
    source = tuned(tmp_path / "tuned", family, count, RoutingConfig(**policy))
    with pytest.raises(ExportError, match=reason):
        export_native(str(source), tmp_path / "native", dtype)
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_a_folder_beside_the_export_is_left_alone(tmp_path):
    """What is written before it is checked has a name that nobody else has."""
    source = tuned(tmp_path / "tuned", "minimax_m2", 1)
    theirs = [tmp_path / name / "thesis.txt" for name in (".native.unchecked", ".native.0", ".native")]
    for file in theirs:
        file.parent.mkdir()
        file.write_text("precious")
    export_native(str(source), tmp_path / "native")
    assert [file.read_text() for file in theirs] == ["precious"] * 3
    assert len(list(tmp_path.iterdir())) == 5


def test_folders_on_the_way_to_an_export_that_is_refused_are_not_made(tmp_path):
    source = tuned(tmp_path / "tuned", "olmoe", 1)
    with pytest.raises(ExportError):
        export_native(str(source), tmp_path / "a" / "b" / "native")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}
    source = tuned(tmp_path / "exact", "minimax_m2", 1)
    export_native(str(source), tmp_path / "a" / "b" / "native")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"native"}


def test_a_stock_class_that_does_not_run_in_a_dtype_is_named(tmp_path, monkeypatch):
    source = tuned(tmp_path / "tuned", "deepseek_v3", 0)
    kind = type(tiny_model("deepseek_v3"))

    def broken(*args, **kwargs):
        raise RuntimeError("expected m1 and m2 to have the same dtype")

    monkeypatch.setattr(kind, "forward", broken)
    with pytest.raises(ExportError, match=r"gives none in float16: expected m1 .* another --dtype"):
        export_native(str(source), tmp_path / "native", "float16")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_a_rank_that_comes_near_a_condenser_s_is_refused(tmp_path):
    model = attach(tiny_model("minimax_m2"), RoutingConfig())
    for layer in moe_layers(model):
        layer.router.selection_bias[3] = 600.0
    set_condensers(model, {0: [0], 1: [0], 2: [0]})
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    with pytest.raises(ExportError, match=r"must be twice every other rank; .* has one of 600"):
        export_native(str(tmp_path / "tuned"), tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_the_page_has_the_table_of_families():
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    assert exports(catalog()["families"]) in page
