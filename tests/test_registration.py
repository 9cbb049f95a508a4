"""In whatever order the libraries are imported, ours are known where they are needed; and nothing is imported early."""

import pickle
import subprocess
import sys
from importlib import import_module, invalidate_caches
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoConfig, AutoModel

from expert_condenser import RoutingConfig, attach, moe_layers, set_condensers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.registration import WaitForImport
from expert_condenser.testing import tiny_batch, tiny_model

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "scipy", "matplotlib", "numpy")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a bias and condensers, an adapter, its base, and the logits of both."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_model().save_pretrained(folder / "base")
    model = attach(tiny_model(), RoutingConfig())
    set_condensers(model, {0: [3], 1: [5], 2: [1]})
    for layer in moe_layers(model):
        layer.router.selection_bias[2] = 0.7
    model.save_pretrained(folder / "model")
    describe_model(folder / "model", {})
    adapted = add_adapter(tiny_model(), AdapterConfig(lora="attention"), ["attention"], RoutingConfig())
    set_condensers(adapted, {0: [3], 1: [5], 2: [1]})
    adapted.save_pretrained(folder / "adapter")
    with torch.no_grad():
        logits = {name: m(input_ids=tiny_batch()).logits for name, m in (("model", model), ("adapter", adapted))}
        logits["base"] = tiny_model()(input_ids=tiny_batch()).logits
    torch.save({"ids": tiny_batch(), **logits}, folder / "logits.pt")
    assert (logits["model"] - logits["base"]).abs().max() > 1e-3
    assert (logits["adapter"] - logits["base"]).abs().max() > 1e-3
    return folder


TRUNK = """
from transformers import AutoConfig, AutoModel
config = AutoConfig.from_pretrained('model', trust_remote_code={trust})
fresh = AutoModel.from_config(config, trust_remote_code={trust})
assert all(hasattr(layer.mlp.gate, 'selection_bias') for layer in fresh.layers)
trunk = AutoModel.from_pretrained('model', dtype='float32', trust_remote_code={trust})
assert type(fresh) is type(trunk)
import pickle
assert pickle.loads(pickle.dumps(type(trunk))) is type(trunk)
from torch.nn.functional import linear
class Whole(torch.nn.Module):
    def forward(self, input_ids):
        from types import SimpleNamespace
        head = load_file('model/model.safetensors')['lm_head.weight']
        return SimpleNamespace(logits=linear(trunk(input_ids=input_ids).last_hidden_state, head))
from safetensors.torch import load_file
model = Whole()
"""


@pytest.mark.parametrize("first", ["import expert_condenser", ""])
def test_programs_that_build_the_trunk_alone_find_its_class(saved, first):
    run(saved, [first, *TRUNK.format(trust=first == "").splitlines()])


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_pickle_finds_a_class_in_a_process_that_never_used_it(saved, kind):
    """The workers of a server get the class itself from their parent."""
    config = AutoConfig.from_pretrained(saved / "model")
    made = (type(config), type(attach(tiny_model(), RoutingConfig())), type(AutoModel.from_config(config)))[kind]
    assert getattr(sys.modules[made.__module__], made.__name__) is made
    lines = [
        "import pickle, torch",
        f"made = pickle.loads({pickle.dumps(made)!r})",
        f"assert made.__name__ == '{made.__name__}'",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def run(folder, code, expect="model"):
    """Run the lines in a new process; they leave a `model`, whose logits are to be those expected."""
    lines = [
        "import torch",
        "torch.set_num_threads(1)",
        *code,
        "saved = torch.load('logits.pt', weights_only=True)",
        "with torch.no_grad(): found = model.eval()(input_ids=saved['ids']).logits",
        f"assert torch.allclose(found, saved['{expect}'], atol=1e-5), (found - saved['{expect}']).abs().max()",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


OURS = "import expert_condenser"
AUTO = "from transformers import AutoModelForCausalLM"
BASE = "base = AutoModelForCausalLM.from_pretrained('base', dtype='float32')"
LOAD = "model = AutoModelForCausalLM.from_pretrained('model', dtype='float32')"


@pytest.mark.parametrize(
    "code",
    [
        [OURS, AUTO, LOAD],
        [AUTO, OURS, LOAD],
        ["import transformers", OURS, AUTO, LOAD],
        ["from transformers import AutoConfig", OURS, "AutoConfig.from_pretrained('model')", AUTO, LOAD],
        [OURS, "from transformers import AutoConfig; config = AutoConfig.from_pretrained('model')", AUTO, LOAD],
        ["import transformers.models.auto.modeling_auto", OURS, AUTO, LOAD],
        ["from expert_condenser.architectures import auto_class", AUTO, LOAD],
        ["from expert_condenser import load_model", "model = load_model('model')"],
        ["import expert_condenser.testing", AUTO, LOAD],
        [AUTO, "model = AutoModelForCausalLM.from_pretrained('model', dtype='float32', trust_remote_code=True)"],
        *[
            [OURS, first, AUTO, LOAD]
            for first in (
                "from transformers import PreTrainedModel",
                "from transformers import AutoTokenizer",
                "from transformers import Trainer",
                "from transformers import OlmoeConfig",
                "from transformers.models.olmoe import modeling_olmoe",
                "from transformers.models.aria import configuration_aria",
                "import transformers.modeling_utils",
                "import transformers.integrations.moe",
                "from trl import SFTTrainer",
                "import accelerate, datasets, peft",
            )
        ],
    ],
)
def test_a_saved_model_loads(saved, code):
    run(saved, code)


@pytest.mark.parametrize(
    "code",
    [
        [OURS, "from peft import PeftModel", AUTO],
        ["from peft import PeftModel", OURS, AUTO],
        ["import peft", AUTO, OURS, "from peft import PeftModel"],
        [OURS, AUTO, BASE, "from peft import PeftModel"],  # transformers asks whether peft is there, long before
    ],
)
def test_an_adapter_loads(saved, code):
    run(saved, [*code, BASE, "model = PeftModel.from_pretrained(base, 'adapter')"], "adapter")


@pytest.mark.parametrize("code", [[OURS, AUTO], [AUTO, OURS], [AUTO, "import transformers.integrations.moe", OURS]])
def test_our_experts_implementation_is_known(saved, code):
    load = "model = AutoModelForCausalLM.from_pretrained('base', dtype='float32', experts_implementation='sorted_mm')"
    run(saved, [*code, load, "assert model.config._experts_implementation == 'sorted_mm'"], "base")


@pytest.mark.parametrize(
    "use",
    [
        "CONFIG_MAPPING['condenser_olmoe'].from_pretrained('model')",
        "AutoConfig.for_model('condenser_olmoe', condenser=content['condenser'])",
        "CONFIG_MAPPING['condenser_olmoe'](condenser=content['condenser'])",
    ],
)
def test_a_config_type_can_be_used_before_its_class_is_made(saved, use):
    before = [OURS, AUTO, "from transformers import CONFIG_MAPPING, AutoConfig", "import json"]
    before += ["content = json.load(open('model/config.json'))"]
    before += ["assert CONFIG_MAPPING['condenser_olmoe'].__name__.startswith('StandIn')"]
    after = ["assert type(config) is CONFIG_MAPPING['condenser_olmoe'], type(config)"]
    after += ["assert config.condenser == content['condenser']"]
    run(saved, [*before, f"config = {use}", *after, LOAD])


def test_control_without_the_import_nothing_is_known(saved):
    for load in (LOAD, LOAD.replace("'model'", "'base'").replace("dtype", "experts_implementation='sorted_mm', dtype")):
        code = f"{AUTO}\n{load}"
        done = subprocess.run([sys.executable, "-c", code], cwd=saved, capture_output=True, text=True, check=False)
        assert done.returncode != 0


def test_the_import_is_light_and_waits_for_nothing_once_all_is_there():
    code = f"""
import sys
import expert_condenser
from expert_condenser.registration import AFTER, WaitForImport
loaded = [name for name in {HEAVY} if name in sys.modules]
assert loaded == [], loaded
(finder,) = [f for f in sys.meta_path if isinstance(f, WaitForImport)]
assert set(finder.waiting) == set(AFTER)
import peft, transformers.models.auto.modeling_auto, transformers.integrations.moe
assert not any(isinstance(f, WaitForImport) for f in sys.meta_path)
for name in AFTER:
    module = sys.modules[name]
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader", name
assert set(AFTER.values()) <= set(sys.modules), 'all are imported'
assert expert_condenser.__version__.count(".") == 2
assert "attach" in dir(expert_condenser)
try:
    expert_condenser.atach
except AttributeError as error:
    assert "atach" in str(error)
else:
    raise AssertionError("a name that is not there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_module_is_waited_for_until_it_is_imported_whole(tmp_path, monkeypatch):
    names = ("awaited_module", "following_module")
    awaited, following = (tmp_path / f"{name}.py" for name in names)
    awaited.write_text("raise RuntimeError('half way')")
    following.write_text(f"import {names[0]}\nseen = {names[0]}.whole")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    finder = WaitForImport(dict([names]))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert find_spec(names[0]).origin == str(awaited)
    with pytest.raises(RuntimeError, match="half way"):
        import_module(names[0])
    assert finder in sys.meta_path
    assert names[1] not in sys.modules
    awaited.write_text("whole = True")
    invalidate_caches()
    import_module(names[0])
    assert sys.modules[names[1]].seen
    assert finder not in sys.meta_path
    for name in names:
        assert type(sys.modules.pop(name).__loader__).__name__ == "SourceFileLoader"
