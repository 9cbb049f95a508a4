"""What a LoRA result is saved as: each tensor in the dtype that its family keeps it in."""

import pytest
import torch

from expert_condenser.checkpoint import cast as cast_module
from expert_condenser.checkpoint import load_model
from expert_condenser.checkpoint.cast import save_in
from expert_condenser.errors import CheckpointError
from expert_condenser.testing import tiny_model

BIAS = "e_score_correction_bias"


def corrected(name="deepseek_v3"):
    """A model whose correction bias has digits that bfloat16 has not."""
    model = tiny_model(name)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(BIAS):
                tensor.copy_(1 + torch.arange(tensor.numel()).view_as(tensor) * 1e-3)
    return model


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_the_routing_s_own_tensors_stay_in_float32(tmp_path, name):
    model = corrected(name)
    save_in(model, torch.bfloat16, tmp_path)
    saved = load_model(tmp_path, "bfloat16").state_dict()
    biases = [key for key in saved if key.endswith(BIAS)]
    assert biases
    for key in biases:
        assert saved[key].dtype == torch.float32
        assert torch.equal(saved[key], model.state_dict()[key])
        assert not torch.equal(saved[key], saved[key].bfloat16().float()), "control: rounding would change it"
    assert {tensor.dtype for key, tensor in saved.items() if "experts" in key and BIAS not in key} == {torch.bfloat16}
    assert not (tmp_path / ".float32").exists()


def test_in_float32_it_is_the_model(tmp_path):
    model = corrected()
    save_in(model, torch.float32, tmp_path)
    saved = load_model(tmp_path).state_dict()
    assert all(torch.equal(saved[key], tensor) for key, tensor in model.state_dict().items())


def test_what_was_saved_is_checked(tmp_path, monkeypatch):
    def damaged(folder, dtype):
        model = load_model(folder, dtype)
        if folder == tmp_path:  # what is read back of the result
            with torch.no_grad():
                next(tensor for key, tensor in model.state_dict().items() if key.endswith(BIAS))[0] += 1e-3
        return model

    monkeypatch.setattr(cast_module, "load_model", damaged)
    with pytest.raises(CheckpointError, match=rf"must hold what was trained, and .*{BIAS} in it differs"):
        save_in(corrected(), torch.bfloat16, tmp_path)
