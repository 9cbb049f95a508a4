"""Every family is traced, but for those that ask for values; which these are stands here and in docs/plan.md."""

import re
from pathlib import Path

import pytest
import torch

from expert_condenser.errors import PlanError
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.planning.sized_experts import planned_implementation
from expert_condenser.testing import TINY_CONFIGS, tiny_batch, tiny_config, tiny_model
from expert_condenser.testing.families import TINY_FAMILIES
from tests.planning.test_plan import recipe

ASK_FOR_VALUES = {
    *("aria", "dbrx", "glm5_next", "inkling_mm_model", "kimi_k25", "longcat_flash", "nemotron_h_omni"),
    *("qwen4_exp", "qwen4_exp_text", "step3p7"),
}
PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
NAMES = sorted({*TINY_CONFIGS, *TINY_FAMILIES})


def weights_with_gradients(name):
    """Of a real step: a family's indexers and such may train in name only."""
    model = tiny_model(name).train()
    ids = tiny_batch()
    logits = model(input_ids=ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_traced_or_named(name, tmp_path):
    tiny_config(name).save_pretrained(tmp_path)
    planner = Planner(recipe(tmp_path), Machine())
    if name in ASK_FOR_VALUES:
        with pytest.raises(PlanError, match="asks for values"):
            planner.trace(checkpointing=True)
        return
    trace = planner.trace(checkpointing=True)
    assert trace.moments[-1].gradients == 4 * weights_with_gradients(name)
    assert trace.peak().activations > 0


def test_the_page_names_them():
    (line,) = re.findall(r"^Not planned: (.*)\.$", PAGE.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", line)) == ASK_FOR_VALUES


def test_whose_memory_is_planned():
    assert planned_implementation(None, "cpu") == "sorted_mm"
    assert planned_implementation(None, "cuda") == planned_implementation("eager", "cpu") == "grouped_mm"
    assert planned_implementation("batched_mm", "cpu") == "batched_mm"
