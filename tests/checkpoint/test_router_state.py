"""Router tensors that no training wrote are refused by every reader, with the name of the layer."""

import json
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.load import load_model
from expert_condenser.errors import CheckpointError
from expert_condenser.moe.own_types import condensers_of, selection_biases
from expert_condenser.moe.state import check_saved_types
from expert_condenser.testing import tiny_batch, tiny_model

PAPER = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
NAN, INF = float("nan"), float("inf")
IDS, BIAS = "condenser_ids", "selection_bias"
FAULTS = {
    "an id twice": (IDS, lambda ids: ids.fill_(3), r"distinct expert ids in 0\.\.7; got \[3, 3\]"),
    "a negative id": (IDS, lambda ids: ids.copy_(torch.tensor([-1, 3])), r"distinct expert ids.*got \[-1, 3\]"),
    "an id out of range": (IDS, lambda ids: ids.copy_(torch.tensor([3, 8])), r"distinct expert ids.*got \[3, 8\]"),
    "a float id": (IDS, lambda ids: ids.double() + 0.5, "integer expert ids; got (torch.float64|F64)"),
    "an id of yes or no": (IDS, lambda ids: ids.bool(), "integer expert ids; got (torch.bool|BOOL)"),
    "a bias of NaN": (BIAS, lambda bias: bias.index_fill_(0, torch.tensor([2]), NAN), "bias is finite; got .*nan"),
    "a bias that float32 does not hold": (BIAS, lambda bias: bias.double().fill_(1e300), "bias is finite; got"),
    "a bias of infinity": (
        BIAS,
        lambda bias: bias.index_fill_(0, torch.tensor([2]), -INF),
        "bias is finite; got .*-inf",
    ),
}
every_fault = pytest.mark.parametrize("fault", FAULTS)
every_family = pytest.mark.parametrize("family", PAPER)


def condensed(model):
    """Two condensers in every layer, and a bias."""
    set_condensers(model, {index: [6, index] for index in range(len(moe_layers(model)))})
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.linspace(-1, 1, 8))
    return model


def damaged(file, fault):
    """Make one tensor of the last layer faulty; returns the router's name and the message."""
    tensor, edit, message = FAULTS[fault]
    tensors = load_file(file)
    key = max(key for key in tensors if key.endswith(tensor))
    tensors[key] = edit(tensors[key].clone()).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    name = key.removesuffix(f".{tensor}").removeprefix("base_model.model.")
    return rf"{re.escape(name)}.*{message}"


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    made = {}

    def folder(family, target):
        if family not in made:
            made[family] = condensed(attach(tiny_model(family), RoutingConfig()))
        made[family].save_pretrained(target)
        return made[family]

    return folder


@every_family
@every_fault
@pytest.mark.parametrize("load", [load_model, AutoModelForCausalLM.from_pretrained], ids=["load_model", "AutoModel"])
def test_a_model_with_it_is_not_loaded(family, fault, load, saved_model, tmp_path):
    model = saved_model(family, tmp_path)
    assert condensers_of(load(tmp_path)) == condensers_of(model), "control: it loads"
    message = damaged(tmp_path / "model.safetensors", fault)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@every_family
@every_fault
@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}], ids=["strict", "partial", "assign"])
def test_a_state_dict_with_it_is_not_taken(family, fault, options, saved_model, tmp_path):
    model = saved_model(family, tmp_path)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state, **options)
    tensor, edit, message = FAULTS[fault]
    key = f"{moe_layers(model)[0].name}.{tensor}"
    state[key] = edit(state[key].clone())
    before = condensers_of(model), selection_biases(model)
    with pytest.raises(CheckpointError, match=rf"{moe_layers(model)[0].name}: .*{message}"):
        model.load_state_dict(state, **options)
    assert condensers_of(model) == before[0]
    assert torch.equal(selection_biases(model), before[1])


def test_a_state_dict_of_other_dtypes_is_taken_in_ours(saved_model, tmp_path):
    model = saved_model("olmoe", tmp_path)
    narrow = {BIAS: torch.bfloat16, IDS: torch.int32}
    state = {
        key: value.to(narrow.get(key.rpartition(".")[2], value.dtype)) for key, value in model.state_dict().items()
    }
    before = condensers_of(model)
    model.load_state_dict(state, assign=True)
    for layer in moe_layers(model):
        assert (layer.router.selection_bias.dtype, layer.router.condenser_ids.dtype) == (torch.float32, torch.int64)
    assert condensers_of(model) == before


def test_float_ids_in_the_older_kind_of_file_are_seen(saved_model, tmp_path):
    saved_model("olmoe", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    check_saved_types(tmp_path)
    key = max(key for key in tensors if key.endswith(IDS))
    torch.save(tensors | {key: tensors[key].float()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"integer expert ids; got torch.float32"):
        load_model(tmp_path)


@pytest.mark.parametrize("older", [False, True])
def test_a_bias_of_integers_is_seen(saved_model, tmp_path, older):
    """Loading makes it floats, of which a bias below 1 is 0."""
    saved_model("olmoe", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for key in [key for key in tensors if key.endswith(BIAS)]:
        for narrow in (torch.bfloat16, torch.float16, torch.float64):
            save_file(tensors | {key: tensors[key].to(narrow)}, file, {"format": "pt"})
            check_saved_types(tmp_path)
        broken = tensors | {key: tensors[key].to(torch.int32)}
        if older:
            file.unlink(missing_ok=True)
            torch.save(broken, tmp_path / "pytorch_model.bin")
        else:
            save_file(broken, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"a selection bias is of floats; got (I32|torch.int32)"):
            load_model(tmp_path)
        (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)


@pytest.fixture
def saved_adapter(tmp_path):
    def folder(family):
        tiny_model(family).save_pretrained(tmp_path / "base")
        base = load_model(tmp_path / "base")
        model = condensed(add_adapter(base, AdapterConfig(lora="attention"), ["attention"], RoutingConfig()))
        model.save_pretrained(tmp_path / "adapter")
        return model

    return folder


def with_peft(folder):
    return PeftModel.from_pretrained(load_model(folder.parent / "base"), folder)


def with_transformers(folder):
    """It fills tensors in by itself, so that they are checked in the first forward."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model(tiny_batch(1, 4))
    return model


def with_load_adapter(folder):
    model = AutoModelForCausalLM.from_pretrained(folder.parent / "base")
    model.load_adapter(str(folder))
    model(tiny_batch(1, 4))
    return model


READERS = {"load_model": load_model, "PEFT": with_peft, "from_pretrained": with_transformers, "load": with_load_adapter}
every_adapter_reader = pytest.mark.parametrize("load", READERS.values(), ids=READERS)


# transformers makes integers of ids before anybody can look.
@every_family
@pytest.mark.parametrize(
    ("fault", "load"),
    [
        pytest.param(fault, load, id=f"{fault}-{name}")
        for fault in FAULTS
        for name, load in READERS.items()
        if load in (load_model, with_peft) or fault not in ("a float id", "an id of yes or no")
    ],
)
def test_an_adapter_with_it_is_not_loaded(family, fault, load, saved_adapter, tmp_path):
    model = saved_adapter(family)
    assert condensers_of(load(tmp_path / "adapter")) == condensers_of(model), "control: it loads"
    message = damaged(tmp_path / "adapter" / "adapter_model.safetensors", fault)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "adapter")


@pytest.mark.parametrize("tensor", [IDS, BIAS])
@every_adapter_reader
def test_an_adapter_without_the_state_of_a_router_is_not_loaded(tensor, load, saved_adapter, tmp_path):
    saved_adapter("olmoe")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(f"base_model.model.model.layers.1.mlp.gate.{tensor}")
    save_file(tensors, file, metadata={"format": "pt"})
    found = {IDS: r"got \[8, 8\]", BIAS: "is finite; got .*nan"}[tensor]
    missing = rf"state of every router; missing: model\.layers\.1\.mlp\.gate\.{tensor}"
    with pytest.raises(CheckpointError, match=rf"{missing}|layers\.1\.mlp\.gate: .*{found}"):
        load(tmp_path / "adapter")


SECTIONS = {
    "none": (lambda section: None, "has a section `condenser`"),
    "without counts": (lambda s: {"routing": s["routing"]}, "with routing and condensers_per_layer"),
    "newer": (lambda s: {**s, "format_version": 2}, "format_version up to 1; got 2.*upgrade"),
    "of a version that is none": (lambda s: {**s, "format_version": True}, "format_version up to 1; got True"),
    "of a version in words": (lambda s: {**s, "format_version": "1"}, "format_version up to 1; got '1'"),
    "with a switch that is not known": (
        lambda s: {**s, "routing": {**s["routing"], "temperature": 2.0}},
        "routing of the section `condenser` cannot be read.*temperature",
    ),
    "with a value that is none": (
        lambda s: {**s, "routing": {**s["routing"], "bias_clip": -1.0}},
        "cannot be read: bias_clip is a positive bound",
    ),
    "one layer short": (
        lambda s: {**s, "condensers_per_layer": [2, 2]},
        r"a number for each of 3 MoE layers; got \[2, 2",
    ),
    "with other numbers than it promises": (
        lambda s: {**s, "routing": {**s["routing"], "num_condensers": 1}},
        r"condensers_per_layer is what num_condensers says, 1; got \[2, 2, 2\]",
    ),
    "with fractions": (lambda s: {**s, "condensers_per_layer": [2, 2, 1.5]}, "a number for each of 3"),
    "with more than fit": (lambda s: {**s, "condensers_per_layer": [2, 2, 3]}, r"layers\.2\.mlp\.gate: .*R <= 2"),
    "with a size that no memory has": (
        lambda s: {**s, "condensers_per_layer": [2, 2, 2**31]},
        r"layers\.2\.mlp\.gate: .*got R = 2147483648",
    ),
}


def edit_section(file, edit):
    content = json.loads(file.read_text())
    content["condenser"] = edit(content["condenser"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("load", [load_model, AutoModelForCausalLM.from_pretrained], ids=["load_model", "AutoModel"])
def test_a_model_with_such_a_section_is_not_loaded(section, load, saved_model, tmp_path):
    saved_model("olmoe", tmp_path)
    edit, message = SECTIONS[section]
    edit_section(tmp_path / "config.json", edit)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("section", SECTIONS)
@every_adapter_reader
def test_an_adapter_with_such_a_section_is_not_loaded(section, load, saved_adapter, tmp_path):
    saved_adapter("olmoe")
    edit, message = SECTIONS[section]
    edit_section(tmp_path / "adapter" / "adapter_config.json", edit)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "adapter")


@every_family
def test_a_section_without_a_version_is_of_the_first(family, saved_model, tmp_path):
    """That is what releases before this one wrote."""
    model = saved_model(family, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["condenser"]["format_version"] == 1
    edit_section(tmp_path / "config.json", lambda section: section.pop("format_version") and section)
    assert condensers_of(load_model(tmp_path)) == condensers_of(model)
