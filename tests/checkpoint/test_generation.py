"""What cannot be saved at the end is found, or mended, at the start."""

import pytest
from transformers import GenerationConfig

from expert_condenser.checkpoint.generation import make_savable
from expert_condenser.errors import CheckpointError
from expert_condenser.testing import tiny_model


def model_with(**options):
    model = tiny_model("olmoe")
    model.generation_config = GenerationConfig(eos_token_id=3, **options)
    return model


def test_a_temperature_means_sampling(tmp_path):
    model = model_with(temperature=0.6, top_p=0.95)
    with pytest.raises(ValueError, match="do_sample"):
        model.save_pretrained(tmp_path)
    make_savable(model)
    model.save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert (saved.do_sample, saved.temperature, saved.eos_token_id) == (True, 0.6, 3)


def test_a_config_that_can_be_saved_stays_as_it_is():
    model = model_with()
    make_savable(model)
    assert model.generation_config.do_sample is not True


def test_what_cannot_be_mended_is_an_error_and_stays():
    model = model_with()
    model.generation_config.num_return_sequences = 4
    model.generation_config.num_beams = 2
    model.generation_config.temperature = 0.5
    with pytest.raises(CheckpointError, match=r"generation_config cannot be saved: .*num_return_sequences"):
        make_savable(model)
    assert model.generation_config.do_sample is not True
