"""What goes into the experts of a layer and what comes out."""

import pytest
import torch

from expert_condenser import moe_layers
from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.experts_calls import all_outputs, check_calls, expert_outputs, mixture_on, on_experts
from expert_condenser.testing import tiny_batch, tiny_model


def calls_of(model, index=1):
    found = []
    stop = on_experts(moe_layers(model)[index], found.append)
    with torch.no_grad():
        model(input_ids=tiny_batch())
        stop()
        model(input_ids=tiny_batch())
    (call,) = found
    return call


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe", "gpt_oss", "deepseek_v2", "longcat_flash", "gemma4_text"])
def test_the_output_is_the_weighed_sum_of_the_experts(name):
    model = tiny_model(name)
    call, layer = calls_of(model), moe_layers(model)[1]
    with torch.no_grad():
        outputs = expert_outputs(layer, call.hidden, call.indices)
        expected = (outputs * call.weights[..., None]).sum(1)
        torch.testing.assert_close(call.output, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(call.output, outputs.sum(1), atol=1e-3), "control"
        torch.testing.assert_close(mixture_on(layer, call)[0], call.output, atol=1e-6, rtol=1e-5)


def test_another_layer_answers_the_same_inputs_otherwise():
    model, other = tiny_model(), tiny_model(seed=1)
    call = calls_of(model)
    with torch.no_grad():
        assert torch.equal(mixture_on(moe_layers(model)[1], call)[0], call.output)
        assert not torch.allclose(mixture_on(moe_layers(other)[1], call)[0], call.output, atol=1e-4)


def test_all_outputs_are_those_of_every_expert():
    model = tiny_model()
    call, layer = calls_of(model), moe_layers(model)[1]
    with torch.no_grad():
        every = all_outputs(layer, call.hidden)
        assert every.shape == (8, 48, 32)
        chosen = every.transpose(0, 1).gather(1, call.indices[..., None].expand(-1, -1, 32))
        torch.testing.assert_close(chosen, expert_outputs(layer, call.hidden, call.indices))


def test_families_that_hand_over_otherwise_are_refused():
    check_calls(moe_layers(tiny_model()), replayed=True)
    check_calls(moe_layers(tiny_model("dbrx")))
    for name, replayed in (("llama4_text", False), ("dbrx", True)):
        with pytest.raises(UnsupportedModelError, match="in another way"):
            check_calls(moe_layers(tiny_model(name)), replayed=replayed)
