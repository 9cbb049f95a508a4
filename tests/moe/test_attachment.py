"""One attachment per model, found from the model and from whatever is around it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from expert_condenser import RoutingConfig, attach, detach, moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.errors import RoutingError
from expert_condenser.moe.attachment import attachment_of, find_attachment
from expert_condenser.testing import tiny_batch, tiny_model

FAMILIES = ("olmoe", "deepseek_v2", "gpt_oss")


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def in_peft(model):
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "q_a_proj"]))


def in_ddp(model):
    return torch.nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrap", [in_peft, in_ddp, lambda model: in_ddp(in_peft(model))])
def test_it_is_found_through_wrappers(family, wrap, one_process):
    model = attach(tiny_model(family), RoutingConfig())
    attachment = attachment_of(model)
    wrapped = wrap(model)
    assert wrapped is not model
    assert attachment_of(wrapped) is attachment
    assert attachment.routers == tuple(layer.router for layer in moe_layers(wrapped))
    detach(wrapped)
    assert find_attachment(wrapped) is find_attachment(model) is None
    with pytest.raises(RoutingError, match=f"{type(wrapped).__name__} is not attached"):
        attachment_of(wrapped)


def test_it_counts_in_a_wrapped_model(one_process):
    model = attach(tiny_model(), None)
    wrapped = in_ddp(in_peft(model)).train()
    wrapped(input_ids=tiny_batch())
    counts = torch.stack([router.counter.counts for router in attachment_of(wrapped).routers])
    assert counts.sum(dim=1).tolist() == [tiny_batch().numel() * layer.top_k for layer in moe_layers(model)]
    attachment_of(wrapped).reset(detailed=True)
    assert attachment_of(model).watch.detailed
    assert all(router.counter.counts.sum() == 0 for router in attachment_of(model).routers)


def test_it_is_that_of_the_adapter_with_a_routing_policy():
    policy = RoutingConfig(bias_space="score")
    adapted = add_adapter(tiny_model(), AdapterConfig(lora="attention"), ["attention"], policy)
    assert attachment_of(adapted).policy == policy
    assert attachment_of(adapted.base_model.model) is attachment_of(adapted)


def test_a_copy_of_a_wrapped_model_has_its_own():
    adapted = in_peft(attach(tiny_model(), RoutingConfig())).train()
    twin = copy.deepcopy(adapted)
    twin(input_ids=tiny_batch())
    assert attachment_of(twin) is not attachment_of(adapted)
    assert all(router.counter.counts.sum() > 0 for router in attachment_of(twin).routers)
    assert all(router.counter.counts.sum() == 0 for router in attachment_of(adapted).routers)
