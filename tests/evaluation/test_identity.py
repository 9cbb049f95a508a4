"""Which weights answer: told by content, not by place, time or name."""

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import file_download
from safetensors.torch import save_file

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.evaluation import identity
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.identity import identity_of, weights_digest, weights_of


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A directory with two files of weights, each longer than all its sampled blocks together."""
    monkeypatch.setattr(identity, "BLOCK", 16)
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2):
        weights = torch.arange(500, dtype=torch.float32) + number
        save_file({"weight": weights}, folder / f"model-0000{number}-of-00002.safetensors")
    return folder


def test_a_copy_has_the_same_digest_whatever_its_time_and_name(model, tmp_path):
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "copy")
    os.utime(copied / "model-00001-of-00002.safetensors", (0, 0))
    (copied / "README.md").write_text("of no weight")
    save_file({"counts": torch.zeros(2)}, copied / "usage.safetensors")
    assert weights_digest(copied) == weights_digest(model)
    assert weights_digest(model).startswith("sha256:")


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, 12, "block", -3])
def test_another_content_has_another(model, at):
    """In the length of the header, in the header, in a block between, at the end."""
    before, path = weights_digest(model), model / "model-00002-of-00002.safetensors"
    flipped(path, second_block(path) if at == "block" else at)
    assert weights_digest(model) != before


def test_what_lies_between_the_blocks_is_not_read(model):
    before, path = weights_digest(model), model / "model-00002-of-00002.safetensors"
    flipped(path, second_block(path) + 16)
    assert weights_digest(model) == before


def second_block(path):
    return (path.stat().st_size - 16) // (identity.BLOCKS - 1)


def test_another_shape_size_or_file_has_another(model):
    found = [weights_digest(model)]
    path = model / "model-00002-of-00002.safetensors"
    save_file({"weight": torch.arange(500, dtype=torch.float32).reshape(50, 10) + 2}, path)
    found.append(weights_digest(model))
    path.write_bytes(path.read_bytes() + b" ")
    found.append(weights_digest(model))
    path.unlink()
    found.append(weights_digest(model))
    assert len(set(found)) == 4


def test_a_sample_is_read_of_a_large_file_and_all_of_a_small_one(model, monkeypatch):
    path = model / "model-00001-of-00002.safetensors"
    header, *blocks = identity._sample(path)
    assert json.loads(header)["weight"]["shape"] == [500]
    assert [len(block) for block in blocks] == [16] * identity.BLOCKS
    monkeypatch.setattr(identity, "BLOCK", 2**20)
    header, *blocks = identity._sample(path)
    assert blocks == [path.read_bytes()]


def test_an_adapter_has_the_weights_of_its_base_in_its_digest(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"lora_A": torch.ones(3)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    before = weights_digest(adapter)
    (model / "model-00002-of-00002.safetensors").unlink()
    assert weights_digest(adapter) not in (before, weights_digest(model))


def test_a_hub_model_has_its_commit_where_the_cache_knows_it_and_else_its_name(tmp_path, monkeypatch):
    assert weights_of("org/model") == "org/model"
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots" / "abc123").mkdir(parents=True)
    (folder / "snapshots" / "abc123" / "config.json").write_text("{}")
    assert weights_of("org/model") == "commit:abc123"
    assert weights_of("org/other") == "org/other"
    assert weights_of("base without experts [1, 2]") == "base without experts [1, 2]"


def test_a_folder_without_weights_is_its_name(tmp_path):
    assert weights_digest(tmp_path) is None
    assert weights_of(tmp_path) == str(tmp_path)


def test_a_model_has_one_identity_loaded_or_not():
    path = base_model_path()
    tokenizer = load_tokenizer(path)
    later = LocalBackend(str(path), tokenizer, dtype="float32")
    assert LocalBackend(path, tokenizer, model=load_model(path)).identity == later.identity
    assert later.identity == identity_of(path, backend="transformers", dtype="float32")
    assert LocalBackend(path, tokenizer, model=load_model(path, "bfloat16")).identity["dtype"] == "bfloat16"
