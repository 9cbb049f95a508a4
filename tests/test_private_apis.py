"""One test per private API of another library that we use: it fails when a release changes it."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import ClassVar

import pytest
import torch
import transformers
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraModel
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, OlmoeConfig, OlmoeForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.integrations.moe import batched_mm_experts_forward
from transformers.trainer_pt_utils import LengthGroupedSampler

import expert_condenser
from expert_condenser import RoutingConfig, attach, moe_layers
from expert_condenser.kernels.sorted_experts import has_instructions
from expert_condenser.moe.own_types import own_model_class
from expert_condenser.study.cost import _GROUPED
from expert_condenser.testing import tiny_batch, tiny_config, tiny_model
from expert_condenser.training.lost_process import lost_process_named
from tests.private_uses import private_uses, unexplained

try:
    from transformers.distributed import expert_parallel
except ImportError:  # before 5.23, where the engine `ep` is refused
    expert_parallel = None

SOURCE = Path(expert_condenser.__file__).parent
FILES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
USES = {
    "_apply": (nn.Module, "moe/router.py"),
    "_apply_gate": (type(moe_layers(tiny_model())[0].experts), "moe/experts.py"),
    "_can_set_attn_implementation": (transformers.PreTrainedModel, "moe/own_types.py"),
    "_can_use_grouped_mm": (transformers.integrations.moe, "planning/sized_experts.py"),
    "_cdata": (None, "planning/ledger.py"),
    "_can_set_experts_implementation": (transformers.PreTrainedModel, "moe/own_types.py"),
    "_current_graph_task_id": (torch._C, "moe/counting.py"),
    "_default_apply_gate": (transformers.integrations.moe, "moe/experts.py"),
    "_dispatch_tokens": (expert_parallel and expert_parallel.AllToAllEP, "moe/expert_parallel.py"),
    "_experts_implementation": (transformers.PreTrainedConfig, "moe/experts.py"),
    "_get_adapter_state_dict": (LoraModel, "adapters/peft_type.py"),
    "_get_train_sampler": (transformers.Trainer, "training/trainer.py"),
    "_load_rng_state": (transformers.Trainer, "training/trainer.py"),
    "_gradient_checkpointing_func": (None, "moe/replay.py"),
    "_grouped_mm": (torch.ops.aten, "study/cost.py"),
    "_hf_hook": (None, "moe/hooked.py"),
    "_is_expert_parallel": (None, "moe/experts.py"),
    "_is_mkldnn_bf16_supported": (torch.ops.mkldnn, "kernels/sorted_experts.py"),
    "_is_mkldnn_fp16_supported": (torch.ops.mkldnn, "kernels/sorted_experts.py"),
    "_keep_in_fp32_modules_strict": (transformers.PreTrainedModel, "moe/own_types.py"),
    "_load_from_checkpoint": (transformers.Trainer, "training/trainer.py"),
    "_load_from_state_dict": (nn.Module, "moe/router.py"),
    "_load_optimizer_and_scheduler": (transformers.Trainer, "training/trainer.py"),
    "_model_mapping": (AutoModelForCausalLM, "moe/own_types.py"),
    "_no_split_modules": (transformers.PreTrainedModel, "training/engines/fsdp.py"),
    "_old_forward": (None, "moe/hooked.py"),
    "_parameters": (None, "moe/slices.py"),
    "_python_dispatch": (torch.utils, "planning/ledger.py"),
    "_remap_adapter_state_dict_for_load": (LoraModel, "adapters/peft_type.py"),
    "_set_pg_timeout": (torch.distributed.distributed_c10d, "training/lost_process.py"),
    "_reset_state": (AcceleratorState, "training/engines/deepspeed.py"),
    "_save": (transformers.Trainer, "training/trainer.py"),
    "_save_optimizer_and_scheduler": (transformers.Trainer, "training/trainer.py"),
    "_subclasses": (torch, "planning/model.py"),
}
"""Name -> what has it (None: instances alone, each looked at in its test), and the file that uses it."""


# --- the table is complete ---


def test_the_table_has_every_use():
    found = {(name, file) for file, source in FILES.items() for name in private_uses(source)}
    assert found == {(name, file) for name, (_, file) in USES.items()}


@pytest.mark.parametrize("name", USES)
def test_every_row_has_a_test(name):
    assert callable(globals().get(f"test{name}")), f"a private API needs a test: test{name}"


@pytest.mark.parametrize("name", [name for name, (owner, _) in USES.items() if owner is not None])
def test_every_private_name_is_there(name):
    owner, file = USES[name]
    assert hasattr(owner, name), f"{owner} has no {name} any more, which {file} uses"
    assert not hasattr(owner, f"{name}_of_no_release"), "an owner that says yes to every name tells nothing"


@pytest.mark.parametrize("file", sorted({file for _, file in USES.values()}))
def test_every_use_says_why(file):
    assert unexplained(FILES[file]) == []


# --- accelerate ---


def test_hf_hook():
    """A hooked module has it, and a forward on the instance that calls the hook and `_old_forward`."""
    module = nn.Linear(2, 3)
    hook = add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))._hf_hook
    assert (hook.execution_device, hook.offload_buffers) == ("cpu", False)
    assert isinstance(vars(module)["forward"], partial)
    assert vars(module)["forward"].func.__module__ == "accelerate.hooks", "_hf_hook"
    remove_hook_from_module(module)
    assert not hasattr(module, "_hf_hook")
    assert vars(module)["forward"] == MethodType(nn.Linear.forward, module)


def test_old_forward():
    """It is what the hook calls: the forward of the class, bound, until another one is put there."""
    module = add_hook_to_module(nn.Linear(2, 3), AlignDevicesHook(execution_device="cpu"))
    assert module._old_forward == MethodType(nn.Linear.forward, module)
    module._old_forward = lambda x: x + 1
    assert module(torch.ones(2)).tolist() == [2.0, 2.0], "_old_forward"


# --- torch ---


def test_apply():
    """Every cast and move of a module goes through the `_apply` of each module inside, an overridden one too."""
    called = []

    class Recorder(nn.Linear):
        def _apply(self, fn, recurse=True):
            called.append(fn)
            return super()._apply(fn, recurse)

    outer = nn.Sequential(Recorder(2, 3))
    ways = (outer.half, outer.bfloat16, outer.double, lambda: outer.to(torch.float32), lambda: outer.to("meta"))
    for number, way in enumerate(ways, start=1):
        way()
        assert len(called) == number, "_apply"
    outer.train(), outer.requires_grad_(False)
    assert len(called) == len(ways), "and nothing else does"


def test_cdata():
    """One number per storage: the same for a view, another for a copy, also of tensors without data."""
    with FakeTensorMode():
        without_data = torch.ones(4)
        for tensor in (torch.ones(4), without_data):
            number = tensor.untyped_storage()._cdata
            assert isinstance(number, int)
            assert tensor[1:].untyped_storage()._cdata == number, "_cdata"
            assert tensor.clone().untyped_storage()._cdata != number


def test_python_dispatch():
    """A mode sees every operation with its results, those of the backward pass too."""
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    weight = torch.ones(2, 3, requires_grad=True)
    with Recorder():
        (torch.ones(4, 2) @ weight).exp().sum().backward()
    assert {"aten.mm.default", "aten.exp.default", "aten.ones.default"} <= set(seen)
    assert seen.count("aten.mm.default") == 2, "_python_dispatch: the second one is the gradient"


def test_subclasses():
    """A tensor without data has shape, dtype and a graph, and no memory; asking for a value is an error."""
    with FakeTensorMode():
        weight = torch.ones(1 << 20, 1 << 20, requires_grad=True)  # 4 TB
        (weight * 2).sum().backward()
        assert weight.grad.shape == weight.shape, "_subclasses"
        with pytest.raises(DataDependentOutputException):
            weight.sum().item()


def test_load_from_state_dict():
    """`load_state_dict` calls it for each module with the whole state and the module's prefix, before it copies."""
    seen = []

    class Recorder(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            seen.append((prefix, sorted(state_dict), self.bias.tolist()))
            super()._load_from_state_dict(state_dict, prefix, *args)

    outer = nn.Sequential(nn.Identity(), Recorder(1, 1))
    before = outer[1].bias.tolist()
    outer.load_state_dict({"1.weight": torch.zeros(1, 1), "1.bias": torch.full((1,), 7.0)})
    assert seen == [("1.", ["1.bias", "1.weight"], before)], "_load_from_state_dict"
    assert outer[1].bias.tolist() == [7.0]


def test_parameters():
    """It gives the registered parameter where a property of the class has its name; the public ways do not."""

    class Shadowed(nn.Module):
        weight = property(lambda self: torch.zeros(1))

    module = Shadowed()
    registered = module._parameters["weight"] = nn.Parameter(torch.ones(2))
    assert module._parameters["weight"] is registered
    assert dict(module.named_parameters())["weight"] is registered, "it is where modules look for parameters"
    assert module.weight is not registered
    with pytest.raises(AttributeError):
        module.get_parameter("weight")


@pytest.mark.parametrize("reentrant", [False, True])
def test_current_graph_task_id(reentrant):
    """It is -1 in a forward and not while a backward recomputes one; `is_grad_enabled` does not tell."""
    seen = []

    def layer(x):
        seen.append((torch._C._current_graph_task_id() != -1, torch.is_grad_enabled()))
        return x * x

    x = torch.ones(2, requires_grad=True)
    layer(x)
    checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    assert [recomputed for recomputed, _ in seen] == [False, False, True], "_current_graph_task_id"
    assert seen[0][1], "the flag is on in a plain forward"
    assert seen[2][1], "and in the recomputation"


def test_is_mkldnn_bf16_supported():
    """It answers without arguments, and `has_instructions` gives its answer."""
    answer = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert answer in (False, True), "_is_mkldnn_bf16_supported"
    assert has_instructions(torch.bfloat16) == (answer and torch.backends.mkldnn.is_available())


def test_is_mkldnn_fp16_supported():
    """As the one for bfloat16."""
    answer = torch.ops.mkldnn._is_mkldnn_fp16_supported()
    assert answer in (False, True), "_is_mkldnn_fp16_supported"
    assert has_instructions(torch.float16) == (answer and torch.backends.mkldnn.is_available())


def test_grouped_mm():
    """transformers' `grouped_mm` runs this operator, whose operations torch counts with our formula alone."""
    model = tiny_model()
    model.set_experts_implementation("grouped_mm")
    layer = moe_layers(model)[0]
    experts, hidden = layer.experts, torch.randn(6, model.config.hidden_size)
    chosen = torch.arange(6 * 2).reshape(6, 2) % layer.num_experts
    assert counted(_GROUPED, experts, hidden, chosen) == sum(
        2 * chosen.numel() * weight[0].numel() for weight in experts.parameters()
    ), "_grouped_mm"
    assert counted({}, experts, hidden, chosen) == 0


def counted(formulas, experts, hidden, chosen):
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        experts(hidden, chosen, torch.ones(chosen.shape))
    return counter.get_total_flops()


# --- transformers: experts ---


def test_experts_implementation():
    """The experts look up in their config, under this name, which implementation runs."""
    model = tiny_model()
    experts = moe_layers(model)[0].experts
    for name in ("eager", "sorted_mm"):
        model.set_experts_implementation(name)
        assert experts.config._experts_implementation == name, "_experts_implementation"
    experts.config._experts_implementation = "of_no_release"
    with pytest.raises(KeyError, match="of_no_release"):
        model(input_ids=tiny_batch())


def test_is_expert_parallel():
    """It is False on new experts; where it is True, ids beyond the last expert are another rank's."""
    layer = moe_layers(tiny_model())[0]
    experts, hidden = layer.experts, torch.randn(3, tiny_config("olmoe").hidden_size)
    beyond, weights = torch.full((3, 1), layer.num_experts), torch.zeros(3, 1)
    assert vars(experts)["_is_expert_parallel"] is False
    with pytest.raises(IndexError):
        batched_mm_experts_forward(experts, hidden, beyond, weights)
    experts._is_expert_parallel = True
    assert torch.equal(batched_mm_experts_forward(experts, hidden, beyond, weights), torch.zeros_like(hidden))


def test_apply_gate():
    """Every experts class has it, as a method of what the first product gives; a family's own one is another."""
    for family, own in (("olmoe", False), ("gpt_oss", True)):
        experts = moe_layers(tiny_model(family))[0].experts
        assert (experts._apply_gate.__name__ != "_default_apply_gate") == own, "_apply_gate"
        assert experts._apply_gate(torch.randn(5, 8)).shape == (5, 4)


def test_default_apply_gate():
    """Under this name it is `act(gate) * up`, of the two halves."""
    experts, x = moe_layers(tiny_model())[0].experts, torch.randn(5, 8)
    assert experts._apply_gate.__func__ is transformers.integrations.moe._default_apply_gate
    assert torch.equal(experts._apply_gate(x), nn.functional.silu(x[:, :4]) * x[:, 4:]), "_default_apply_gate"


@pytest.mark.parametrize("answer", [False, True])
def test_can_set_experts_implementation(answer, monkeypatch):
    """transformers asks the class before it sets an implementation; ours answers as the family's does."""
    model, before = own_model(), "eager"
    model.set_experts_implementation(before)
    monkeypatch.setattr(OlmoeForCausalLM, "_can_set_experts_implementation", classmethod(lambda cls: answer))
    model.set_experts_implementation("sorted_mm")
    found = model.config._experts_implementation
    assert found == ("sorted_mm" if answer else before), "_can_set_experts_implementation"


@pytest.mark.parametrize("answer", [False, True])
def test_can_set_attn_implementation(answer, monkeypatch):
    """As the one for the experts."""
    model, before = own_model(), "eager"
    model.set_attn_implementation(before)
    monkeypatch.setattr(OlmoeForCausalLM, "_can_set_attn_implementation", classmethod(lambda cls: answer))
    assert model._can_set_attn_implementation() is answer, "_can_set_attn_implementation"
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == ("sdpa" if answer else before), "_can_set_attn_implementation"


def own_model():
    return attach(tiny_model(), RoutingConfig())


# --- transformers: models, checkpoints, training ---


def test_gradient_checkpointing_func():
    """Every layer calls the function of this name with its forward, in training."""
    model = tiny_model().train()
    layers = model.model.layers
    assert not any(hasattr(layer, "_gradient_checkpointing_func") for layer in layers)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    called = []
    for index, layer in enumerate(layers):
        assert hasattr(layer, "_gradient_checkpointing_func"), "_gradient_checkpointing_func"
        layer._gradient_checkpointing_func = lambda function, *args, i=index: (called.append(i), function(*args))[1]
    model(input_ids=tiny_batch())
    assert called == [*range(len(layers))], "_gradient_checkpointing_func"
    model.eval()(input_ids=tiny_batch())
    assert called == [*range(len(layers))], "in training alone"


@pytest.mark.parametrize("listed", [True, False])
def test_keep_in_fp32_modules_strict(listed, tmp_path, monkeypatch):
    """What it lists is float32 in a model that is loaded as bfloat16."""
    OlmoeForCausalLM(tiny_config("olmoe")).save_pretrained(tmp_path)
    names = {"norm"} if listed else None
    monkeypatch.setattr(OlmoeForCausalLM, "_keep_in_fp32_modules_strict", names)
    loaded = OlmoeForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    wanted = torch.float32 if listed else torch.bfloat16
    assert loaded.model.norm.weight.dtype == wanted, "_keep_in_fp32_modules_strict"
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    assert "selection_bias" in own_model_class("olmoe")._keep_in_fp32_modules_strict


def test_model_mapping():
    """An Auto class maps the class of a config to that of the model, also those that are registered later."""

    class NewConfig(OlmoeConfig):
        model_type = "of_no_release"

    class NewModel(OlmoeForCausalLM):
        config_class = NewConfig

    mapping = AutoModelForCausalLM._model_mapping
    assert mapping[OlmoeConfig] is OlmoeForCausalLM, "_model_mapping"
    assert NewConfig not in mapping
    AutoModelForCausalLM.register(NewConfig, NewModel)
    try:
        assert mapping[NewConfig] is NewModel
    finally:
        del mapping._extra_content[NewConfig]


def test_register_checkpoint_conversion_mapping(tmp_path):
    """Public, but what we assume is not written down: a type without the mapping gets none of the saved experts."""
    stock = get_checkpoint_conversion_mapping("olmoe")
    own = get_checkpoint_conversion_mapping(own_model_class("olmoe").config_class.model_type)
    assert [type(rule) for rule in own] == [type(rule) for rule in stock] != []
    with pytest.raises(ValueError, match="already exists"):
        register_checkpoint_conversion_mapping("condenser_olmoe", stock)

    class NewConfig(OlmoeConfig):
        model_type = "new_olmoe"

    class NewModel(OlmoeForCausalLM):
        config_class: ClassVar = NewConfig

    model = tiny_model()
    model.save_pretrained(tmp_path)
    experts = moe_layers(model)[0].experts

    def loads():
        content = {**model.config.to_dict(), "model_type": "new_olmoe"}
        loaded = NewModel.from_pretrained(tmp_path, config=NewConfig(**content))
        return torch.equal(loaded.model.layers[0].mlp.experts.down_proj, experts.down_proj)

    assert not loads()
    register_checkpoint_conversion_mapping("new_olmoe", stock)
    assert loads(), "register_checkpoint_conversion_mapping"


def test_load_rng_state(tmp_path):
    """It reads the file of the folder that it is given, and does nothing where there is none."""
    trainer = object.__new__(transformers.Trainer)
    trainer.args = SimpleNamespace(world_size=1)
    trainer._load_rng_state(str(tmp_path))
    (tmp_path / "rng_state.pth").touch()
    with pytest.raises(EOFError):
        trainer._load_rng_state(str(tmp_path))


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_get_train_sampler(strategy, tmp_path):
    """The data loader of training is made with what it returns; grouped by length that is a LengthGroupedSampler."""

    class Recorder(transformers.Trainer):
        made: ClassVar = []

        def _get_train_sampler(self, train_dataset=None):
            self.made.append(super()._get_train_sampler(train_dataset))
            return self.made[-1]

    rows = [{"input_ids": [1] * length} for length in (3, 5, 2, 4)]
    arguments = transformers.TrainingArguments(tmp_path, train_sampling_strategy=strategy, report_to=[], use_cpu=True)
    trainer = Recorder(tiny_model(), arguments, train_dataset=rows, data_collator=list)
    loader = trainer.get_train_dataloader()
    assert len(trainer.made) == 1, "_get_train_sampler"
    assert isinstance(trainer.made[0], LengthGroupedSampler) == (strategy == "group_by_length")
    assert len(next(iter(loader))) == len(rows)


class Noting(transformers.Trainer):
    """Notes which of the methods that we override are called, and with what."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in OVERRIDDEN:
            return found

        def noted(*args, **kwargs):
            vars(self).setdefault("noted", []).append((name, args, kwargs))
            return found(*args, **kwargs)

        return noted


OVERRIDDEN = ("_save", "_save_optimizer_and_scheduler", "_load_from_checkpoint", "_load_optimizer_and_scheduler")


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """What a training calls that saves a checkpoint, and one that goes on from it."""
    folder, calls = tmp_path_factory.mktemp("noting"), {}
    rows = [{"input_ids": [1, 2], "labels": [1, 2]}] * 2
    for steps, resumed in ((1, None), (2, str(folder / "checkpoint-1"))):
        options = {"max_steps": steps, "save_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
        trainer = Noting(tiny_model(), transformers.TrainingArguments(folder, **options), train_dataset=rows)
        trainer.train(resume_from_checkpoint=resumed)
        calls[steps] = {name: (args, kwargs) for name, args, kwargs in trainer.noted}
    return folder, calls


def test_save(noted):
    """It writes the weights of a checkpoint, into the folder that is its first argument."""
    folder, calls = noted
    assert calls[1]["_save"] == ((str(folder / "checkpoint-1"),), {}), "_save"


def test_save_optimizer_and_scheduler(noted):
    """It writes `optimizer.pt` and `scheduler.pt`."""
    folder, calls = noted
    assert calls[1]["_save_optimizer_and_scheduler"] == ((str(folder / "checkpoint-1"),), {})
    assert {"optimizer.pt", "scheduler.pt"} <= {path.name for path in (folder / "checkpoint-1").iterdir()}


def test_load_from_checkpoint(noted):
    """It reads the weights on a resume."""
    folder, calls = noted
    assert "_load_from_checkpoint" not in calls[1]
    assert calls[2]["_load_from_checkpoint"][0][0] == str(folder / "checkpoint-1"), "_load_from_checkpoint"


def test_load_optimizer_and_scheduler(noted):
    """It is called once; what it reads is the file that the other wrote."""
    folder, calls = noted
    assert calls[2]["_load_optimizer_and_scheduler"] == ((str(folder / "checkpoint-1"),), {})


def test_no_split_modules():
    """PEFT wraps what a model itself names there, and refuses a name that it does not have."""
    model = tiny_model()
    model._no_split_modules = ["OlmoeDecoderLayer"]
    assert callable(fsdp_auto_wrap_policy(model))
    model._no_split_modules = ["NoSuchLayer"]
    with pytest.raises(Exception, match="Could not find the transformer layer class"):
        fsdp_auto_wrap_policy(model)


def test_reset_state(monkeypatch):
    """After it accelerate makes another state, and keeps the one of the processes."""
    monkeypatch.setattr(AcceleratorState, "_shared_state", {"a": 1})
    AcceleratorState._reset_state()
    assert AcceleratorState._shared_state == {}, "_reset_state"


def test_dispatch_tokens():
    """The all-to-all calls it; the last thing that it returns says how many rows went where."""

    class Stop(Exception):  # noqa: N818 - it stands for no error
        pass

    if expert_parallel is None:
        pytest.skip("needs transformers 5.23")

    class Looking(expert_parallel.AllToAllEP):
        def __init__(self):
            pass

        def _dispatch_tokens(self, *args):
            raise Stop(*args)

    with pytest.raises(Stop) as found:
        Looking()(1, 2, 3)
    assert found.value.args == (1, 2, 3), "_dispatch_tokens"
    assert {"send_sizes", "recv_sizes"} <= set(expert_parallel._AllToAllState._fields)


# --- PEFT ---


def test_remap_adapter_state_dict_for_load(monkeypatch):
    """PEFT asks the tuner's class with the tensors of the file, before it loads them."""
    seen = []
    stock = LoraModel._remap_adapter_state_dict_for_load.__func__

    def remap(cls, model, *, state_dict, **options):
        seen.append(sorted(state_dict))
        return stock(cls, model, state_dict=state_dict, **options)

    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    state = get_peft_model_state_dict(adapted)
    monkeypatch.setattr(LoraModel, "_remap_adapter_state_dict_for_load", classmethod(remap))
    set_peft_model_state_dict(adapted, state)
    assert seen == [sorted(state)], "_remap_adapter_state_dict_for_load"


def test_get_adapter_state_dict(monkeypatch):
    """PEFT asks the tuner's class for what an adapter saves: by keywords, with the whole state dict among them."""
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    stock = get_peft_model_state_dict(adapted)
    asked = []

    def answer(cls, **options):
        asked.append(options)
        return {"base_model.model.extra": torch.ones(1)}

    monkeypatch.setattr(LoraModel, "_get_adapter_state_dict", classmethod(answer))
    assert set(get_peft_model_state_dict(adapted)) == {"base_model.model.extra"}, "_get_adapter_state_dict"
    assert asked[0].keys() >= {"model", "config", "adapter_name", "state_dict"}
    assert asked[0]["state_dict"].keys() == adapted.state_dict().keys()
    assert "base_model.model.extra" not in stock != {}


def test_can_use_grouped_mm():
    """It is asked before every grouped product; where it says no, the fallback has shapes for all dtypes."""
    stock = transformers.integrations.moe
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        inputs, weight, offsets = torch.ones(6, 4), torch.ones(2, 4, 3), torch.tensor([2, 6], dtype=torch.int32)
        with pytest.raises(RuntimeError, match="BF16"):
            stock._grouped_mm(inputs, weight, offsets)
        patch.setattr(stock, "_can_use_grouped_mm", lambda *_: False)
        assert stock._grouped_mm(inputs, weight, offsets).shape == (6, 3), "_can_use_grouped_mm"


def test_set_pg_timeout(tmp_path):
    """It sets the timeout of a group that exists; the one of `init_process_group` is half an hour."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.options._timeout != timedelta(seconds=7), "control"
        with lost_process_named(7):
            assert backend.options._timeout == timedelta(seconds=7)
    finally:
        torch.distributed.destroy_process_group()
