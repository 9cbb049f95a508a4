"""A model is attached where it is saved with its routing: wrapped or compiled; no classifier, no bare decoder."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from expert_condenser import RoutingConfig, attach, detach, moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.errors import UnsupportedModelError
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.moe.own_types import CondenserModel
from expert_condenser.moe.saving import check_adapters
from expert_condenser.testing import tiny_batch, tiny_config, tiny_model

FAMILIES = ("olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss")
IDS, TOP_K = tiny_batch(3, 11), 3
every_family = pytest.mark.parametrize("family", FAMILIES)
HEADS = {
    "AutoModel": (*FAMILIES, "mixtral", "qwen3_vl_moe"),
    "AutoModelForSequenceClassification": ("qwen2_moe", "deepseek_v2", "gpt_oss", "mixtral"),  # also reward models
    "AutoModelForTokenClassification": ("qwen2_moe", "gpt_oss", "mixtral"),
    "AutoModelForQuestionAnswering": ("qwen2_moe", "mixtral"),
}


@pytest.mark.parametrize(("head", "family"), [(head, family) for head in HEADS for family in HEADS[head]])
def test_without_a_language_head_it_is_refused_and_counted(head, family):
    model = getattr(transformers, head).from_config(tiny_config(family))
    kind, keys = type(model), list(model.state_dict())
    with pytest.raises(UnsupportedModelError, match=rf"{kind.__name__} \({family}\) has none.*AutoModelForCausalLM"):
        attach(model, RoutingConfig())
    assert (type(model), list(model.state_dict()), find_attachment(model)) == (kind, keys, None), "nothing is changed"
    attach(model, None).train()
    model(input_ids=IDS)
    assert all(int(router.counter.counts.sum()) == IDS.numel() * TOP_K for router in attachment_of(model).routers)


@every_family
def test_a_bare_decoder_in_another_module_is_refused(family):
    wrapped = torch.nn.Sequential(AutoModel.from_config(tiny_config(family)))
    with pytest.raises(UnsupportedModelError, match=r"Sequential \(Sequential\) has none"):
        attach(wrapped, RoutingConfig())
    attach(torch.nn.Sequential(tiny_model(family)), RoutingConfig())


@every_family
def test_a_derived_class_is_refused_since_ours_would_replace_it(family):
    model = tiny_model(family)
    stock = type(model)
    model.__class__ = type("Derived", (stock,), {})
    with pytest.raises(UnsupportedModelError, match=rf"{stock.__name__} becomes a class of ours; Derived"):
        attach(model, RoutingConfig())
    model.__class__ = stock
    assert isinstance(attach(model, RoutingConfig()), CondenserModel)


COMPILED = """
import json, sys, tempfile
import torch
from transformers import AutoModelForCausalLM
from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.testing import tiny_batch, tiny_model

def biased(model):
    for layer in moe_layers(model):
        layer.router.selection_bias[2] = 3.0
    return model

def check(family, in_place, before):
    model = tiny_model(family).train()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    if before:
        model(input_ids=ids)
    attach(model, RoutingConfig())
    off = model(input_ids=ids).logits.detach()
    counts = [int(layer.router.counter.counts.sum()) for layer in moe_layers(model)]
    expected = biased(attach(tiny_model(family).train(), RoutingConfig()))(input_ids=ids).logits
    found = biased(model)(input_ids=ids).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()(input_ids=ids).logits
    same = [torch.equal(expected, other) for other in (found, again, off)]
    print(json.dumps([counts, same]))

ids = tiny_batch(3, 11)
for in_place, before in ((False, False), (True, True)):
    check(sys.argv[1], in_place, before)
"""


@every_family
@pytest.mark.slow  # 10 s for each
def test_a_compiled_model_routes_counts_and_is_saved(family):
    """In a process of its own: here, the checks of shapes would be compiled as well."""
    result = subprocess.run([sys.executable, "-c", COMPILED, family], capture_output=True, text=True, check=True)
    layers = len(moe_layers(tiny_model(family)))
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[[")]
    assert found == [[[IDS.numel() * TOP_K] * layers, [True, True, False]]] * 2


@every_family
def test_a_stock_adapter_is_refused_since_it_is_saved_without_the_state(family):
    adapted = get_peft_model(tiny_model(family), LoraConfig(target_modules=["q_proj", "q_a_proj"]))
    with pytest.raises(UnsupportedModelError, match=r"got the adapters default\. .*add_adapter"):
        attach(adapted, RoutingConfig())
    assert find_attachment(adapted) is None
    attach(adapted, None)
    detach(adapted)
    own = add_adapter(tiny_model(family), AdapterConfig(lora="attention"), ["attention"], RoutingConfig())
    check_adapters(own)
    assert attachment_of(own).policy == RoutingConfig()


def test_an_adapter_that_transformers_put_in_is_refused_too():
    model = tiny_model()
    model.add_adapter(LoraConfig(target_modules=["q_proj"]), "mine")
    with pytest.raises(UnsupportedModelError, match="got the adapters mine"):
        attach(model, RoutingConfig())
