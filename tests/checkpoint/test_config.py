import pytest
from transformers import modeling_utils

from expert_condenser.checkpoint.config import check_room, without_memory
from expert_condenser.errors import CheckpointError
from expert_condenser.testing import tiny_config, tiny_model


@pytest.fixture
def zero3(monkeypatch):
    """transformers as it is in a process of ZeRO-3: what it makes, DeepSpeed splits."""
    monkeypatch.setattr(modeling_utils, "is_deepspeed_zero3_enabled", lambda: True)


def test_a_model_without_memory_is_made_under_zero3_too(zero3):
    model = without_memory(tiny_config("olmoe"))
    assert all(parameter.is_meta and parameter.numel() for parameter in model.parameters())
    assert not modeling_utils._is_ds_init_called, "what is loaded after it is split"


@pytest.fixture
def saved(tmp_path):
    tiny_model("olmoe").save_pretrained(tmp_path)
    return tmp_path


def test_a_directory_is_checked_under_zero3_too(saved, zero3):
    check_room(saved, tiny_config("olmoe"))
    with pytest.raises(CheckpointError, match="its files have"):
        check_room(saved, tiny_config("olmoe", num_hidden_layers=40))
