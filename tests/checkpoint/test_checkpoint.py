"""What is saved comes back whole or not at all, and stock transformers never runs it without its routing."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from expert_condenser import RoutingConfig, attach, detach, moe_layers, set_condensers
from expert_condenser.checkpoint.describe import CODE_MODULE, save_model
from expert_condenser.checkpoint.guard import check_whole, is_whole, keep_newest, newest_whole, set_aside, unfinished_in
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.errors import CheckpointError
from expert_condenser.files import MANIFEST, write_manifest
from expert_condenser.moe.own_types import CondenserModel, condensers_of, own_model_class, selection_biases
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_model

every_family = pytest.mark.parametrize("name", TINY_CONFIGS)
IDS = tiny_batch(3, 11)


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "one": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def condensed(name="olmoe"):
    """A model with random biases and 2, 1, 2, ... condensers per layer."""
    layers = len(moe_layers(tiny_model(name)))
    numbers = [2 - index % 2 for index in range(layers)]
    model = attach(tiny_model(name), RoutingConfig(num_condensers=numbers, bias_clip=4.0))
    generator = torch.Generator().manual_seed(2)
    for layer in moe_layers(model):
        layer.router.selection_bias.copy_(torch.randn(8, generator=generator))
    set_condensers(model, {index: [7 - index, 1][:number] for index, number in enumerate(numbers)})
    return model


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def saved(folder, tokenizer, name="olmoe"):
    model = condensed(name)
    save_model(model, tokenizer, folder, {"method": "condenser", "seed": 3})
    return model


def edit_weights(folder, edit):
    """Rewrite the safetensors file after `edit(tensors)`."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_json(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@every_family
def test_round_trip(name, tokenizer, tmp_path):
    model = saved(tmp_path, tokenizer, name)
    expected = logits_of(model)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "condenser_" + name.removesuffix("_normalized").removesuffix("_grouped")
    assert config["architectures"] == [type(model).__name__]
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"method": "condenser", "seed": 3}
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    for load in (load_model, AutoModelForCausalLM.from_pretrained):
        loaded = load(tmp_path).eval()
        assert type(loaded) is type(model)
        assert torch.equal(logits_of(loaded), expected)
        assert condensers_of(loaded) == condensers_of(model)
        assert torch.equal(selection_biases(loaded), selection_biases(model))
        assert moe_layers(loaded)[0].router.policy == moe_layers(model)[0].router.policy
        assert loaded.state_dict().keys() == model.state_dict().keys()
    stock = tiny_model(name)
    stock.load_state_dict(detach(loaded).state_dict())
    assert torch.equal(logits_of(loaded), logits_of(stock))
    assert not torch.equal(logits_of(loaded), expected), "control: bias and condensers matter"


@every_family
def test_a_second_round_trip_is_the_same_file(name, tokenizer, tmp_path):
    saved(tmp_path / "first", tokenizer, name)
    save_model(load_model(tmp_path / "first"), tokenizer, tmp_path / "second", {})
    for file in ("model.safetensors", "config.json", f"{CODE_MODULE}.py"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_the_router_state_is_on_disk_under_the_routers_name(tokenizer, tmp_path):
    model = saved(tmp_path, tokenizer)
    tensors = load_file(tmp_path / "model.safetensors")
    bias, ids = tensors["model.layers.2.mlp.gate.selection_bias"], tensors["model.layers.2.mlp.gate.condenser_ids"]
    assert (bias.dtype, ids.dtype, ids.tolist()) == (torch.float32, torch.int64, [5, 1])
    assert torch.equal(bias, selection_biases(model)[2])


IN_A_FRESH_PROCESS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
path, refusals = sys.argv[1], []
for options in ({}, {"trust_remote_code": False}):
    try:
        AutoModelForCausalLM.from_pretrained(path, **options)
    except Exception as error:
        refusals.append(type(error).__name__ + ": " + str(error))
assert "expert_condenser" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
with torch.no_grad():
    logits = model(input_ids=torch.load(path + "/ids.pt")).logits
torch.save(logits, path + "/logits.pt")
name = f"{type(model).__module__}.{type(model).__name__}"
print("\\n" + json.dumps({"refusals": refusals, "class": name, "imported": "expert_condenser" in sys.modules}))
"""


def test_stock_transformers_refuses_the_directory_unless_it_may_run_the_code_file(tokenizer, tmp_path):
    model = saved(tmp_path / "model", tokenizer)
    torch.save(IDS, tmp_path / "model" / "ids.pt")
    result = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path / "model")],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found["refusals"]) == 2
    assert all("trust_remote_code=True" in refusal for refusal in found["refusals"])
    assert found["class"] == "expert_condenser.moe.own_types.CondenserOlmoeForCausalLM"
    assert found["imported"]
    assert torch.equal(torch.load(tmp_path / "model" / "logits.pt"), logits_of(model))
    assert "pip install expert-condenser" in (tmp_path / "model" / "README.md").read_text()


def test_without_the_code_file_the_type_is_unknown_to_stock_transformers():
    """Every own type is one that transformers does not have."""
    for family in ("olmoe", "qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "gpt_oss"):
        own, stock = own_model_class(family), type(tiny_model(family))
        assert issubclass(own, stock)
        assert own.config_class.model_type == f"condenser_{family}"
        assert not own.config_class.__module__.startswith("transformers")
        assert type(AutoConfig.for_model(f"condenser_{family}")) is own.config_class


@every_family
@pytest.mark.parametrize("tensor", ["selection_bias", "condenser_ids"])
def test_a_missing_router_tensor_is_an_error_not_uninitialised_memory(name, tensor, tokenizer, tmp_path):
    saved(tmp_path, tokenizer, name)

    def drop(tensors):
        gone = [key for key in tensors if key.endswith(tensor)]
        assert len(gone) == len(moe_layers(tiny_model(name)))
        del tensors[gone[-1]]

    edit_weights(tmp_path, drop)
    for load in (load_model, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=rf"missing keys.*{tensor}.*Nothing is filled in"):
            load(tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.1.mlp.gate.weight",
        "model.layers.0.mlp.experts.3.down_proj.weight",
    ],
)
def test_a_missing_weight_is_an_error(key, tokenizer, tmp_path):
    saved(tmp_path / "own", tokenizer)
    save_model(tiny_model(), tokenizer, tmp_path / "stock", {})
    for folder in (tmp_path / "own", tmp_path / "stock"):
        edit_weights(folder, lambda tensors: tensors.pop(key))
        with pytest.raises(CheckpointError, match="missing"):
            load_model(folder)


def test_an_unexpected_tensor_is_an_error(tokenizer, tmp_path):
    saved(tmp_path, tokenizer)
    edit_weights(tmp_path, lambda tensors: tensors.update({"model.layers.0.mlp.gate.other": torch.zeros(8)}))
    with pytest.raises(CheckpointError, match=r"unexpected keys: model.layers.0.mlp.gate.other"):
        load_model(tmp_path)


def test_a_number_of_condensers_that_the_config_does_not_say_is_an_error(tokenizer, tmp_path):
    saved(tmp_path, tokenizer)
    edit_json(tmp_path / "config.json", lambda config: config["condenser"].update(condensers_per_layer=[2, 1, 1]))
    with pytest.raises(CheckpointError, match=r"what num_condensers says, \(2, 1, 2\); got \[2, 1, 1\]"):
        load_model(tmp_path)


def test_a_truncated_file_is_named(tokenizer, tmp_path):
    saved(tmp_path, tokenizer)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{file} is damaged or truncated"):
        load_model(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=str(file)):
        load_model(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_model(tmp_path)


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/missing cannot be loaded"):
        load_model(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="must have a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("config", [None, {"model_type": "nothing_known"}], ids=["empty", "unknown_type"])
def test_a_directory_without_a_known_model_is_an_error(config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_model(tmp_path)


@every_family
@pytest.mark.parametrize("kind", ["stock", "observed", "detached"])
def test_a_model_without_a_policy_is_saved_as_a_stock_checkpoint(name, kind, tokenizer, tmp_path):
    model = tiny_model(name)
    if kind == "observed":
        attach(model)
    if kind == "detached":
        model = detach(condensed(name))
    save_model(model, tokenizer, tmp_path / kind, {})
    tiny_model(name).save_pretrained(tmp_path / "expected")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / kind / file).read_bytes() == (tmp_path / "expected" / file).read_bytes(), file
    assert not (tmp_path / kind / f"{CODE_MODULE}.py").exists()
    assert "pip install" not in (tmp_path / kind / "README.md").read_text()
    loaded = load_model(tmp_path / kind)
    assert not isinstance(loaded, CondenserModel)
    assert torch.equal(logits_of(loaded), logits_of(tiny_model(name)))


def test_a_model_saved_then_detached_names_no_code_file(tokenizer, tmp_path):
    model = saved(tmp_path / "own", tokenizer)
    save_model(detach(model), tokenizer, tmp_path / "stock", {})
    assert "auto_map" not in json.loads((tmp_path / "stock" / "config.json").read_text())


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    folder = tmp_path / "checkpoint-7"
    saved(folder, tokenizer)
    (folder / "state").mkdir()
    (folder / "state" / "random.json").write_text("{}")
    write_manifest(folder)
    return folder


def test_a_manifest_lists_every_file_with_its_size_and_digest(checkpoint):
    entries = json.loads((checkpoint / MANIFEST).read_text())
    assert entries["state/random.json"] == {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert entries["model.safetensors"]["size"] == (checkpoint / "model.safetensors").stat().st_size
    assert set(entries) == {str(f.relative_to(checkpoint)) for f in checkpoint.rglob("*") if f.is_file()} - {MANIFEST}
    assert is_whole(checkpoint)
    write_manifest(checkpoint)
    assert MANIFEST not in json.loads((checkpoint / MANIFEST).read_text())


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "state/random.json", MANIFEST])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_not_whole(file, damage, checkpoint):
    path = checkpoint / file
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert is_whole(checkpoint) == (file == MANIFEST and damage == "truncated")  # there only the last newline is gone


def test_a_manifest_cut_in_the_middle_or_of_a_damaged_file_is_not_whole(checkpoint):
    manifest, weights = checkpoint / MANIFEST, checkpoint / "model.safetensors"
    content = manifest.read_text()
    manifest.write_text(content[: len(content) // 2])
    assert not is_whole(checkpoint)
    weights.write_bytes(weights.read_bytes()[:-8])
    write_manifest(checkpoint)
    assert not is_whole(checkpoint), "sizes agree, but the tensors end early"


def test_an_edit_that_keeps_the_size_is_seen_and_a_manifest_of_sizes_alone_is_read(checkpoint):
    (checkpoint / "state" / "random.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"state/random.json was changed.*Restore it, or delete"):
        check_whole(checkpoint)
    entries = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({name: entry["size"] for name, entry in entries.items()}))
    check_whole(checkpoint)
    (checkpoint / "state" / "random.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"random.json has 3 bytes and had 2"):
        check_whole(checkpoint)


def test_a_model_card_is_for_people_and_may_change(checkpoint):
    (checkpoint / "README.md").write_text("a card")
    write_manifest(checkpoint)
    (checkpoint / "README.md").write_text("a better card")
    check_whole(checkpoint)
    (checkpoint / "README.md").unlink()
    check_whole(checkpoint)


@pytest.mark.parametrize(
    ("limit", "left"), [(None, "9 10 200"), (0, "9 10 200"), (1, "200"), (2, "10 200"), (5, "9 10 200")]
)
def test_older_checkpoints_go_and_what_is_only_called_like_them_stays(tmp_path, limit, left):
    others = ["checkpoint-1-mine", "checkpoint-2.bak", "checkpoint-01", "checkpoint-best", "my-checkpoint-0"]
    for name in [*others, "checkpoint-9", "checkpoint-10", "checkpoint-200"]:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3").write_text("a file")
    keep_newest(tmp_path, limit)
    assert {p.name for p in tmp_path.iterdir()} == {*others, "checkpoint-3", *(f"checkpoint-{n}" for n in left.split())}


def test_what_was_set_aside_is_told_from_what_is_called_like_it(tmp_path):
    for name in ("checkpoint-3", "final", "checkpoint-3"):
        (tmp_path / name).mkdir()
        set_aside(tmp_path / name)
    for name in ("unfinished-mine", "unfinished-checkpoint-3-mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "unfinished-final-9").write_text("a file")
    found = {"unfinished-checkpoint-3", "unfinished-checkpoint-3-2", "unfinished-final"}
    assert {path.name for path in unfinished_in(tmp_path)} == found


def test_a_manifest_of_nothing_is_none(checkpoint):
    (checkpoint / MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match="holds a JSON object with every file"):
        check_whole(checkpoint)


def test_newest_whole(tmp_path):
    assert newest_whole(tmp_path) == (None, [])
    assert newest_whole(tmp_path / "missing") == (None, [])
    folders = {step: tmp_path / f"checkpoint-{step}" for step in (9, 10, 200, 1000)}
    for step, folder in folders.items():
        folder.mkdir()
        (folder / "data.json").write_text(json.dumps(step))
        write_manifest(folder)
    for name in ("checkpoint-best", "checkpoint-2000.old", "unfinished-checkpoint-3000"):
        (tmp_path / name).mkdir()
    assert newest_whole(tmp_path) == (folders[1000], [])  # by number, not by name
    for step in (1000, 200):
        (folders[step] / MANIFEST).unlink()
    assert newest_whole(tmp_path) == (folders[10], [folders[1000], folders[200]])
    (folders[10] / "data.json").write_text("1")
    with pytest.raises(CheckpointError, match=r"checkpoint-10/data.json has 1 bytes and had 2"):
        newest_whole(tmp_path)
    for step in (9, 10):
        (folders[step] / MANIFEST).unlink()
    assert newest_whole(tmp_path) == (None, [folders[step] for step in (1000, 200, 10, 9)])


def test_what_is_set_aside_gets_a_name_of_its_own_each_time(tmp_path):
    for name in ("unfinished-checkpoint-3", "unfinished-checkpoint-3-2"):
        (tmp_path / "checkpoint-3").mkdir()
        assert set_aside(tmp_path / "checkpoint-3") == tmp_path / name
    assert not (tmp_path / "checkpoint-3").exists()


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_the_stock_class_refuses_our_checkpoint_and_says_what_to_install(name, tokenizer, tmp_path):
    stock_class = type(tiny_model(name))
    saved(tmp_path, tokenizer, name)
    with pytest.raises(Exception, match="pip install expert-condenser"):
        stock_class.from_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_experts_per_tok == 3
