"""A tuned model as a GGUF file: read again, its MoE blocks computed in numpy by llama.cpp's rule give the model's."""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import ExportError
from expert_condenser.export import gguf_file
from expert_condenser.export.gguf_export import check_gguf, export_gguf
from expert_condenser.export.gguf_layouts import LAYOUTS, obstacle
from expert_condenser.export.gguf_table import gguf_table
from expert_condenser.export.tuned import read_tuned
from expert_condenser.moe.families import FAMILIES
from expert_condenser.testing import tiny_model
from tests.export.gguf_cases import CASES, LITE, SCORE, VOCABULARY, yarn
from tests.export.test_native import IDS, tuned
from tests.finetune import tokenizer

gguf = pytest.importorskip("gguf", reason="the extra gguf")


def exported(tmp_path, family, count, policy=None, dtype="float32", **options):
    """The folders of a tuned model and of its file."""
    source = tuned(tmp_path / "tuned", family, count, policy, **VOCABULARY, **options)
    export_gguf(str(source), tmp_path / "gguf", dtype)
    return source, tmp_path / "gguf" / "model.gguf"


def fields_of(path):
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    fields = {name.removeprefix(f"{architecture}."): field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def llama_cpp_block(fields, tensors, block, hidden, func=None):
    """What llama.cpp computes as the MoE block of a layer, in numpy; `func` instead of the file's is the control."""
    of = {name.removeprefix(f"blk.{block}."): value for name, value in tensors.items()}
    func = func or fields["expert_gating_func"]
    logits = hidden @ of["ffn_gate_inp.weight"].T
    scores = {1: softmax, 2: lambda x: 1 / (1 + np.exp(-x)), 3: lambda x: x}[func](logits)
    ranks = scores + of["exp_probs_b.bias"]
    if fields.get("expert_group_count", 1) > 1:
        groups = ranks.reshape(len(ranks), fields["expert_group_count"], -1)
        sums = np.sort(groups, axis=-1)[..., -2:].sum(axis=-1)
        worst = np.argsort(sums, axis=-1)[:, : fields["expert_group_count"] - fields["expert_group_used_count"]]
        np.put_along_axis(groups, worst[..., None], -np.inf, axis=1)
        ranks = groups.reshape(ranks.shape)
    chosen = np.argsort(-ranks, axis=-1)[:, : fields["expert_used_count"]]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    weights = softmax(weights) if func == 3 else weights
    if fields["expert_weights_norm"] or fields["general.architecture"] == "minimax-m2":
        weights = weights / np.clip(weights.sum(axis=-1, keepdims=True), 6.103515625e-5, None)
    out = np.zeros_like(hidden)
    for slot in range(chosen.shape[-1]):
        gate, up, down = (of[f"ffn_{part}_exps.weight"][chosen[:, slot]] for part in ("gate", "up", "down"))
        inner = silu(np.einsum("tid,td->ti", gate, hidden)) * np.einsum("tid,td->ti", up, hidden)
        out += weights[:, slot, None] * fields["expert_weights_scale"] * np.einsum("tdi,ti->td", down, inner)
    if "ffn_up_shexp.weight" in of:
        gate, up, down = (of[f"ffn_{part}_shexp.weight"] for part in ("gate", "up", "down"))
        out += (silu(hidden @ gate.T) * (hidden @ up.T)) @ down.T
    return out


def blocks_of(source):
    """What goes into and comes out of every MoE block of the tuned model, `{block: (in, out)}`."""
    model, found = load_model(source, experts_implementation="eager").eval(), {}

    def note(module, args, out, block):
        out = out[0] if isinstance(out, tuple) else out
        found[block] = (args[0].flatten(0, -2).numpy(), out.flatten(0, -2).numpy())

    for layer in moe_layers(model):
        block = int(layer.block.split(".")[2])
        model.get_submodule(layer.block).register_forward_hook(
            lambda module, args, out, block=block: note(module, args, out, block)
        )
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    return found


def largest_difference(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


FIRST = {family: next(group) for family, group in groupby(CASES, key=lambda case: case.family)}
"""One case of each family is not slow."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case in FIRST.values() else pytest.mark.slow) for case in CASES],
)
def test_the_blocks_of_a_file_are_the_model_s_and_those_in_the_wrong_space_are_not(tmp_path, case):
    source, path = exported(tmp_path, case.family, case.condensers, case.policy, **case.options)
    fields, tensors = fields_of(path)
    wrong = {1: 3, 2: 3, 3: 1}[fields["expert_gating_func"]]
    controls = []
    for block, (hidden, wanted) in blocks_of(source).items():
        assert largest_difference(llama_cpp_block(fields, tensors, block, hidden), wanted) < 1e-5
        controls.append(largest_difference(llama_cpp_block(fields, tensors, block, hidden, wrong), wanted))
    assert min(controls) > 1e-2, "the same bias in the other space"


def test_the_page_has_the_table_and_every_line_of_it_has_its_cases():
    table = gguf_table()
    assert table in (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    claimed = set()
    for line in table.splitlines()[2:]:
        family, _, *cells = (cell.strip(" `") for cell in line.strip("|").split(" | "))
        spaces = [space for space, cell in zip(("logit", "score"), cells, strict=True) if cell.startswith("exact")]
        # A family with a correction bias stays in its space, whatever the policy says.
        claimed |= {(family, "own" if FAMILIES[family].rule.correction is not None else space) for space in spaces}
    shown = set()
    for case in CASES:
        family, policy = case.family.removesuffix("_normalized"), case.policy or RoutingConfig()
        shown.add((family, "own" if FAMILIES[family].rule.correction is not None else policy.bias_space))
    assert shown == claimed
    assert {family for family, _ in shown} == LAYOUTS.keys()


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_weights_are_rounded_once_and_routers_are_stored_in_float32(tmp_path, dtype, kind):
    source, path = exported(tmp_path, "mixtral", 1, dtype=dtype)
    rounded = load_model(source, dtype)
    file = gguf_file.GgufFile(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    down = file.tensor("blk.1.ffn_down_exps.weight")
    assert torch.equal(down, rounded.model.layers[1].mlp.experts.down_proj)
    assert not torch.equal(down.float(), load_model(source).model.layers[1].mlp.experts.down_proj)
    assert kinds["blk.1.ffn_down_exps.weight"] == kind
    assert {kinds[f"blk.1.{name}"] for name in ("ffn_gate_inp.weight", "exp_probs_b.bias", "attn_norm.weight")} == {
        "F32"
    }


def test_the_numbers_of_a_file(tmp_path):
    _, path = exported(tmp_path, "mixtral", 1, None)
    fields, tensors = fields_of(path)
    assert fields["expert_gating_func"] == 3
    assert fields["expert_weights_norm"] is False
    assert (fields["expert_count"], fields["expert_used_count"], fields["expert_shared_count"]) == (8, 3, 1)
    bias = tensors["blk.0.exp_probs_b.bias"].tolist()
    assert bias == pytest.approx([16384.0, *torch.linspace(-0.3, 0.3, 8)[1:].tolist()])
    assert not tensors["blk.0.ffn_up_shexp.weight"].any()


@pytest.mark.parametrize(
    ("family", "count", "policy", "options", "reason"),
    [
        ("olmoe", 0, {}, {}, "no engine ranks logits with a bias and weighs by a softmax over all experts"),
        ("olmoe", 0, {"bias_space": "score"}, {}, "minimax-m2 divides the weights by their sum, and olmoe does not"),
        ("qwen2_moe", 0, {}, {}, "no model of llama.cpp with a choice bias computes what qwen2_moe computes"),
        ("afmoe", 0, {}, {}, "not among the families that are written as GGUF here. Export --to native"),
        ("deepseek_v2", 0, {}, LITE, "Tune again with bias_space: score"),
        ("deepseek_v2", 0, {"bias_space": "score"}, {}, "no q_lora_rank, which llama.cpp knows of models with 26"),
        (
            "deepseek_v2_grouped",
            0,
            {"bias_space": "score"},
            {"q_lora_rank": 16},
            "llama.cpp ranks a group by its two best experts",
        ),
        ("glm4_moe", 1, {}, {}, "a token chooses within a part of the groups"),
        ("mixtral", 1, {"condenser_mass": "keep"}, {}, "rescale their weights"),
        ("mixtral", 0, {"bias_in_weights": True}, {}, "weighs by the bias"),
        ("mixtral", 0, {"budget": "recycle"}, {}, "gates of its own"),
        ("mixtral", 1, {"budget": "additive", "duplicates": True}, {}, "counts an expert twice"),
        ("mixtral", 0, {}, {"sliding_window": 16}, "sliding_window 16"),
        ("olmoe_normalized", 0, {}, {"clip_qkv": 8.0}, "clip_qkv"),
        ("qwen3_moe", 0, {}, {"attention_bias": True}, "attention_bias"),
        ("deepseek_v3", 0, {}, {"rope_interleave": False}, "rope_interleave off"),
        (
            "qwen3_moe",
            0,
            {},
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'linear'",
        ),
        *(
            ("deepseek_v3", 0, {}, yarn(**change), reason)
            for change, reason in (
                ({"attention_factor": 3.0}, "attention_factor 3.0"),
                ({"mscale": None, "mscale_all_dim": None}, "a mscale that is not mscale_all_dim, or none"),
                ({"mscale": 1.0}, "a mscale that is not mscale_all_dim"),
                ({"truncate": False}, "truncate off"),
            )
        ),
    ],
)
def test_what_is_not_exact_is_refused_and_nothing_is_written(tmp_path, family, count, policy, options, reason):
    source = tuned(tmp_path / "tuned", family, count, RoutingConfig(**policy), **VOCABULARY, **options)
    with pytest.raises(ExportError, match=reason):
        export_gguf(str(source), tmp_path / "gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_of_yarn_only_what_rotates_without_scaling_is_written():
    """transformers scales cosines by `attention_factor`; a file of llama.cpp's `deepseek2` says 1."""
    base = yarn()["rope_parameters"]
    for change in ({}, {"attention_factor": 1.0}, {"attention_factor": 1.0, "mscale": None}, {"attention_factor": 2.0}):
        config = tiny_model("deepseek_v3", **yarn(**change), **VOCABULARY).config
        _, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
        assert (obstacle("deepseek_v3", config) is None) == (factor == 1), change
    assert "attention_factor" not in base


def test_layers_of_unlike_slots_are_refused(tmp_path):
    model = attach(tiny_model("mixtral", **VOCABULARY), RoutingConfig(budget="additive"))
    set_condensers(model, {0: [0], 1: [0, 1], 2: [3]})
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    with pytest.raises(ExportError, match=r"one number of slots for all layers, and these have K \+ \[1, 2\]"):
        export_gguf(str(tmp_path / "tuned"), tmp_path / "gguf")


def test_a_stock_model_is_left_to_llama_cpp_s_own_converter(tmp_path):
    tiny_model("mixtral").save_pretrained(tmp_path / "stock")
    with pytest.raises(ExportError, match=r"a stock model.*Run convert_hf_to_gguf.py"):
        export_gguf(str(tmp_path / "stock"), tmp_path / "gguf")


def test_a_rank_that_comes_near_a_condenser_s_is_refused(tmp_path):
    model = attach(tiny_model("mixtral", **VOCABULARY), RoutingConfig())
    for layer in moe_layers(model):
        layer.router.selection_bias[3] = 9000.0
    set_condensers(model, {0: [0], 1: [0], 2: [0]})
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    with pytest.raises(ExportError, match=r"must be twice every other rank; .* has one of 9"):
        export_gguf(str(tmp_path / "tuned"), tmp_path / "gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_a_file_that_is_written_wrongly_is_noticed(tmp_path, monkeypatch):
    source, path = exported(tmp_path, "qwen3_moe", 1)
    check_gguf(path, read_tuned(str(source), "gguf", "float32"), True)
    other = read_tuned(str(source), "gguf", "float32")
    with torch.no_grad():
        other.layers[1].router.selection_bias[2] += 1.0
    with pytest.raises(ExportError, match=r"blk\.1\.exp_probs_b\.bias of the file must be the model's"):
        check_gguf(path, other, True)
    reader = gguf.GGUFReader(path, "r+")
    reader.fields["glm4moe.expert_gating_func"].parts[-1][0] = 1
    reader.data.flush()
    with pytest.raises(ExportError, match=r"llama\.cpp must choose the tuned model's experts"):
        check_gguf(path, read_tuned(str(source), "gguf", "float32"), True)


def test_a_tensor_without_a_place_is_an_error(tmp_path, monkeypatch):
    source = tuned(tmp_path / "tuned", "mixtral", 1, **VOCABULARY)
    model = read_tuned(str(source), "gguf", "float32")
    model.model.model.layers[0].extra = nn.Linear(2, 2, bias=False)
    monkeypatch.setattr("expert_condenser.export.gguf_export.read_tuned", lambda *_: model)
    with pytest.raises(ExportError, match="glm4moe has no place for extra of a layer"):
        export_gguf(str(source), tmp_path / "gguf")


def test_layers_without_experts_among_those_with_are_refused(tmp_path, monkeypatch):
    source = tuned(tmp_path / "tuned", "mixtral", 1, **VOCABULARY)
    model = read_tuned(str(source), "gguf", "float32")
    monkeypatch.setattr(
        "expert_condenser.export.gguf_export.read_tuned", lambda *_: model._replace(layers=model.layers[::2])
    )
    with pytest.raises(ExportError, match=r"all layers from 0 on have experts; here they are \[0, 2\]"):
        export_gguf(str(source), tmp_path / "gguf")


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "gguf").mkdir()
    with pytest.raises(ExportError, match="a folder that is not there yet"):
        export_gguf("nowhere", tmp_path / "gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="which is none"):
        export_gguf("nowhere", tmp_path / "file" / "gguf")


def test_provenance_names_the_source(tmp_path):
    source, path = exported(tmp_path, "deepseek_v3", 0, SCORE)
    content = json.loads((path.parent / "provenance.json").read_text())
    assert content["exported"] == {"from": str(source), "to": "gguf", "how": "exp_probs_b of llama.cpp's deepseek2"}
    assert {file.name for file in path.parent.iterdir()} == {"README.md", "model.gguf", "provenance.json"}
    assert "llama-server --model model.gguf" in (path.parent / "README.md").read_text()


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ExportError, match=r"pip install 'expert-condenser\[gguf\]'"):
        gguf_file.library()
